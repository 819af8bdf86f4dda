"""The sync agent: a task in the API server that brings new revisions from the control plane to the engine."""

import asyncio

import structlog

from horen_vllm.control.client import HorenClient
from horen_vllm.control.messages import DeltaView
from horen_vllm.errors import HorenError
from horen_vllm.ids import CodebookName
from horen_vllm.serving.codebooks import ServedCodebook, ServedCodebooks
from horen_vllm.serving.engine import Engine
from horen_vllm.serving.settings import ServingSettings

RETRY_S = 0.5
"""Pause after a call that failed, in seconds."""

log = structlog.get_logger(__name__)


class SyncAgent:
    """Long-polls the control plane, applies what is new, and reports what it serves.

    Parameters
    ----------
    client
        Control plane; its calls block, so they run in a thread.
    engine
        Where revisions go.
    served
        The table that requests are resolved by; a codebook enters it once every worker has it.
    model, fingerprint
        What this server serves.
    """

    def __init__(
        self,
        *,
        client: HorenClient,
        engine: Engine,
        served: ServedCodebooks,
        settings: ServingSettings,
        model: str,
        fingerprint: str,
    ) -> None:
        self._client = client
        self._engine = engine
        self._served = served
        self._settings = settings
        self._model = model
        self._fingerprint = fingerprint
        self._reload: set[CodebookName] = set()

    async def run(self) -> None:
        """Go on until cancelled; no failure of the control plane or of one update ends it."""
        while True:
            try:
                await self.step()
            except HorenError as error:
                log.warning("sync failed", code=error.code, reason=error.message)
                await asyncio.sleep(RETRY_S)
            except Exception:  # the agent must outlive any single failure, or the server would go stale
                log.exception("sync failed unexpectedly")
                await asyncio.sleep(RETRY_S)

    async def step(self) -> None:
        """Ask once, apply all that is new, and renew the lease."""
        # 0 asks for everything; a codebook that was left out could not be reported as removed.
        known = {name: 0 if name in self._reload else at for name, at in self._served.revisions().items()}
        news = await asyncio.to_thread(
            self._client.sync,
            replica_id=self._settings.replica_id,
            model=self._model,
            fingerprint=self._fingerprint,
            known=known,
            wait_s=0.0 if self._served.stale else self._settings.sync_wait_s,
        )
        done = [await self._apply(delta) for delta in news.deltas]
        done += [await self._drop(name) for name in news.removed_codebooks]
        sent_at = self._served.now()
        await self._heartbeat()
        # From before the call: the control plane's lease may have begun then, and must not end before ours.
        self._served.confirm(sent_at)
        if not all(done):
            await asyncio.sleep(RETRY_S)

    async def _apply(self, delta: DeltaView) -> bool:
        """Return whether the engine took the update; a codebook that it refused stays at its old revision."""
        codebook = delta.codebook
        try:
            await self._engine.apply(delta)
        except HorenError as error:
            log.warning("update refused", codebook=str(codebook.name), code=error.code, reason=error.message)
            if error.code == "revision_gap":
                self._reload.add(codebook.name)
            return False
        self._reload.discard(codebook.name)
        ratio = codebook.parameters.window_ratio
        self._served.set(ServedCodebook(name=codebook.name, revision=delta.revision, window_ratio=ratio))
        log.info("revision applied", codebook=str(codebook.name), revision=delta.revision, added=len(delta.added))
        return True

    async def _drop(self, name: CodebookName) -> bool:
        """Return whether the engine has forgotten the codebook."""
        try:
            await self._engine.drop(str(name))
        except HorenError as error:
            log.warning("drop refused", codebook=str(name), code=error.code, reason=error.message)
            return False
        self._reload.discard(name)
        self._served.drop(name)
        return True

    async def _heartbeat(self) -> None:
        await asyncio.to_thread(
            self._client.heartbeat,
            replica_id=self._settings.replica_id,
            model=self._model,
            fingerprint=self._fingerprint,
            applied=self._served.revisions(),
            lease_s=self._settings.lease_s,
        )
