"""The running engine as the sync agent sees it: updates to all workers, and the names in ``/v1/models``."""

import json
from typing import Any, Final

from horen_vllm.artifact import ArtifactFolder
from horen_vllm.control.messages import DeltaView
from horen_vllm.errors import FailedPrecondition, HorenError, Internal

_CLASSES: Final = {kind.__name__: kind for kind in HorenError.__subclasses__()}
"""Error classes by the name under which a worker reports them."""


class Engine:
    """Applies revisions to every worker of one vLLM engine.

    Parameters
    ----------
    client
        vLLM's engine client.
    artifacts
        Where the workers find entries; the folder must be reachable from every worker.
    """

    def __init__(self, client: Any, artifacts: ArtifactFolder) -> None:
        self._client = client
        self._artifacts = artifacts

    async def apply(self, delta: DeltaView) -> None:
        """Move a codebook on every worker between two engine steps.

        Raises
        ------
        FailedPrecondition
            With the worker's code: ``revision_gap``, ``capacity_exhausted``, ``artifact_corrupt`` ...
        """
        added = [
            {
                "edit_id": entry.edit_id,
                "sequence": entry.sequence,
                "artifact": entry.artifact,
                "path": str(self._artifacts.path(entry.artifact)),
            }
            for entry in delta.added
        ]
        update = {
            "codebook": str(delta.codebook.name),
            "base_revision": delta.base,
            "revision": delta.revision,
            "fingerprint": delta.codebook.fingerprint,
            "parameters": delta.codebook.parameters.to_dict(),
            "added": added,
            "removed": list(delta.removed),
        }
        await self._call("horen_apply", json.dumps(update))

    async def drop(self, codebook: str) -> None:
        """Remove a codebook from every worker."""
        await self._call("horen_drop", json.dumps({"codebook": codebook}))

    async def status(self) -> dict[str, Any]:
        """Return the first worker's status; raises as `apply`."""
        return (await self._call("horen_status", "{}"))[0]

    async def _call(self, method: str, text: str) -> list[dict[str, Any]]:
        answers = [json.loads(answer) for answer in await self._client.collective_rpc(method, args=(text,))]
        for answer in answers:
            if "error" in answer:
                error = answer["error"]
                raise _CLASSES.get(error["class"], Internal)(error["message"], code=error["code"])
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
