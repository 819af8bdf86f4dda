"""The running engine as the sync agent sees it: revisions are staged on all workers, then flipped between two steps."""

import asyncio
import json
from typing import Any, Final

from horen_vllm.control.messages import DeltaView
from horen_vllm.errors import FailedPrecondition, Unavailable
from horen_vllm.serving.packing import PackedUpdate
from horen_vllm.serving.reported import reported_error

_FIRST_POLL_S: Final = 0.01
_LAST_POLL_S: Final = 0.1


class Engine:
    """Moves the codebooks of every worker of one vLLM engine.

    Parameters
    ----------
    client
        vLLM's engine client.
    stage_timeout_s
        Seconds after which an update that is still being staged is given up.
    """

    def __init__(self, client: Any, *, stage_timeout_s: float) -> None:
        self._client = client
        self._stage_timeout_s = stage_timeout_s
        self._sequence = 0
        self._order = asyncio.Lock()

    async def take_over(self) -> dict[str, int]:
        """Continue where another agent stopped; return the applied revision of each codebook, by resource name.

        What the other has staged and not flipped is given back. A codebook that the workers disagree on is left out:
        it must be loaded anew.
        """
        ranks = await self._catch_up()
        for ticket in {ticket for rank in ranks for ticket in rank["tickets"]}:
            await self.unstage(ticket)
        applied: dict[str, int] = ranks[0]["applied"]
        return {
            name: revision
            for name, revision in applied.items()
            if all(rank["applied"].get(name) == revision for rank in ranks)
        }

    async def stage(self, delta: DeltaView, packed: PackedUpdate, ticket: str) -> None:
        """Bring an update into every worker's memory, beside the running steps; nothing is served from it yet.

        Raises
        ------
        HorenError
            With the worker's code: ``capacity_exhausted``, ``artifact_corrupt``, ``revision_gap`` ...
        Unavailable
            ``stage_timeout``.
        """
        update = {
            "ticket": ticket,
            "codebook": str(delta.codebook.name),
            "base_revision": delta.base,
            "revision": delta.revision,
            "fingerprint": delta.codebook.fingerprint,
            "parameters": delta.codebook.parameters.to_dict(),
            "pack": str(packed.path),
            "sha256": packed.sha256,
            "removed": list(delta.removed),
        }
        await self._call("horen_stage", update)
        try:
            async with asyncio.timeout(self._stage_timeout_s):
                await self._until_staged(ticket)
        except TimeoutError as exc:
            message = f"staging {update['codebook']} revision {delta.revision} took over {self._stage_timeout_s:g} s."
            raise Unavailable(message, code="stage_timeout") from exc

    async def flip(self, ticket: str) -> None:
        """Serve a staged update from the next step on, on all workers at once.

        Raises
        ------
        FailedPrecondition
            ``stale_update``, ``revision_gap`` or ``not_staged``.
        """
        await self._in_order("horen_flip", {"ticket": ticket})

    async def unstage(self, ticket: str) -> None:
        """Free what was staged under `ticket`, however far it came."""
        await self._call("horen_unstage", {"ticket": ticket})

    async def drop(self, codebook: str) -> None:
        """Remove a codebook (by resource name) from every worker; live requests keep their revision."""
        await self._in_order("horen_drop", {"codebook": codebook})

    async def status(self) -> dict[str, Any]:
        """Return the first worker's status."""
        return (await self._call("horen_status", {}))[0]

    async def _until_staged(self, ticket: str) -> None:
        pause = _FIRST_POLL_S
        while True:
            ranks = await self._call("horen_staged", {"ticket": ticket})
            failed = next((rank for rank in ranks if rank["state"] == "failed"), None)
            if failed is not None:
                raise reported_error(failed["error"])
            if all(rank["state"] == "staged" for rank in ranks):
                return
            await asyncio.sleep(pause)
            # Each question costs a moment between two steps, so long stagings are asked about less often.
            pause = min(2 * pause, _LAST_POLL_S)

    async def _in_order(self, method: str, request: dict[str, Any]) -> None:
        async with self._order:
            # Counted before the call: a number that may have reached a worker is never used again.
            self._sequence += 1
            try:
                await self._call(method, {**request, "sequence": self._sequence})
            except FailedPrecondition as error:
                if error.code == "stale_update":
                    await self._catch_up()
                raise

    async def _catch_up(self) -> list[dict[str, Any]]:
        ranks = await self._call("horen_status", {})
        self._sequence = max(rank["sequence"] for rank in ranks)
        return ranks

    async def _call(self, method: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        ranks = await self._client.collective_rpc(method, args=(json.dumps(request),))
        answers: list[dict[str, Any]] = [json.loads(rank) for rank in ranks]
        for answer in answers:
            if "error" in answer and "state" not in answer:
                raise reported_error(answer["error"])
        return answers


def site_of(engine_client: Any) -> str:
    """Return the edit site of a running engine.

    Raises
    ------
    FailedPrecondition
        ``no_edit_site``, when it was started without ``additional_config.horen``.
    """
    section = (engine_client.vllm_config.additional_config or {}).get("horen")
    if section is None:
        message = "the server was started without additional_config.horen, so it has no edit site."
        raise FailedPrecondition(message, code="no_edit_site")
    return str(section["site"])
