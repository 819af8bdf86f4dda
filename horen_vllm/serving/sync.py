"""The sync agent: the one task of an engine that brings new revisions from the control plane into it.

It listens, and hands each codebook's updates to a lane of its own: a bulk update that is staged for a minute holds up
neither another codebook's rollback nor the heartbeat.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

from horen_vllm.control.client import HorenClient
from horen_vllm.control.messages import DeltaView, SyncView
from horen_vllm.errors import HorenError, Internal
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import ReplicaReport
from horen_vllm.serving.engine import Engine
from horen_vllm.serving.lane import Lane
from horen_vllm.serving.packer import Packer
from horen_vllm.serving.packing import PackedUpdate
from horen_vllm.serving.probe import Prober
from horen_vllm.serving.settings import ServingSettings
from horen_vllm.serving.state import AgentState, CodebookState, Probe, ProbeFailure
from horen_vllm.serving.updates import Updates

RETRY_S: Final = 0.5
"""Pause after a call that failed, and between two looks at what is due, in seconds."""

log = structlog.get_logger(__name__)


class Observer(Protocol):
    """Who counts what the agent does."""

    def flipped(self, name: CodebookName, revision: int) -> None:
        """Every worker serves a revision."""
        ...

    def staging_refused(self, name: CodebookName, code: str) -> None:
        """A revision was refused."""
        ...

    def latest(self, name: CodebookName, revision: int) -> None:
        """The control plane has named a revision."""
        ...

    def sync_failed(self, code: str) -> None:
        """The control plane did not answer, or refused."""
        ...


class SyncAgent:
    """Long-polls the control plane, moves the engine, asks it whether edits hold, and reports what it serves.

    Parameters
    ----------
    client
        Control plane; its calls block, so they run in threads.
    engine, packer, prober
        How revisions get into the engine, and how it is asked about them.
    publish
        Shows a state to all API servers of the engine before it returns.
    observer
        Who counts.
    model, fingerprint
        What this server serves.
    clock
        Monotonic seconds, the same in all processes of the machine.
    """

    def __init__(
        self,
        *,
        client: HorenClient,
        engine: Engine,
        packer: Packer,
        prober: Prober,
        publish: Callable[[AgentState], None],
        observer: Observer,
        settings: ServingSettings,
        model: str,
        fingerprint: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._engine = engine
        self._prober = prober
        self._show = publish
        self._observer = observer
        self._settings = settings
        self._identity = {"replica_id": settings.replica_id, "model": model, "fingerprint": fingerprint}
        self._clock = clock
        self._updates = Updates(engine, packer, changed=lambda: self._publish(news=False))
        self._lanes: dict[CodebookName, Lane] = {}
        self._confirmed_at: float | None = None
        self._heard = asyncio.Event()
        self._ready = asyncio.Event()
        self._news = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def run(self, state: AgentState | None) -> None:
        """Go on until cancelled, from where an earlier agent of this engine stopped (None: there was none).

        No failure of the control plane or of one update ends it.
        """
        await self._take_over(state or AgentState())
        async with asyncio.TaskGroup() as self._tasks:
            for work in (self.listen, self.beat, self.mend):
                self._tasks.create_task(self._keep_on(work))
            self._tasks.create_task(self._settle())

    async def listen(self) -> None:
        """Ask the control plane once, and start what is new."""
        now = self._clock()
        known = {name: lane.known(now) for name, lane in self._lanes.items() if not lane.gone}
        wait_s = self._settings.sync_wait_s if self._heard.is_set() else 0.0
        news: SyncView = await asyncio.to_thread(self._client.sync, **self._identity, known=known, wait_s=wait_s)
        for delta in news.deltas:
            self._hear(delta)
        for name in news.removed_codebooks:
            self._lanes[name].gone = True
            self._start(self._lanes[name])
        self._heard.set()
        if news:
            self._publish()

    async def beat(self) -> None:
        """Renew the lease with what is served now, then wait until there is something to say, or it is time."""
        await self._ready.wait()
        self._news.clear()
        sent_at = self._clock()
        await asyncio.to_thread(
            self._client.heartbeat, **self._identity, report=self._report(), lease_s=self._settings.lease_s
        )
        # From before the call: the control plane's lease may have begun then, and must not end before ours.
        self._confirmed_at = sent_at
        self._publish(news=False)
        try:
            await asyncio.wait_for(self._news.wait(), min(self._settings.sync_wait_s, self._settings.lease_s / 3))
        except TimeoutError:
            return

    async def mend(self) -> None:
        """Start what has failed and is due again: probes, and drops."""
        for lane in list(self._lanes.values()):
            self._start(lane)
        await asyncio.sleep(RETRY_S)

    async def _take_over(self, state: AgentState) -> None:
        applied = await self._engine.take_over()
        await self._updates.clear(state.tickets)
        for text, revision in applied.items():
            name = CodebookName.parse(text)
            self._lanes[name] = Lane.resumed(name, state.codebooks.get(name), revision)
        self._confirmed_at = state.confirmed_at
        if state.ready:
            # The engine has been serving all along: it must not wait for its next lease.
            self._ready.set()
        self._publish()

    async def _settle(self) -> None:
        """Say that the engine is loaded once all that was current at the start is served or refused."""
        await self._heard.wait()
        await asyncio.gather(*(lane.task for lane in self._lanes.values() if lane.task), return_exceptions=True)
        self._ready.set()
        self._publish()

    async def _keep_on(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except HorenError as error:
                log.warning("sync failed", code=error.code, reason=error.message)
                self._observer.sync_failed(error.code)
                await asyncio.sleep(RETRY_S)
            except Exception:  # the agent must outlive any single failure, or the server would go stale
                log.exception("sync failed unexpectedly")
                self._observer.sync_failed(Internal.default_code)
                await asyncio.sleep(RETRY_S)

    def _hear(self, delta: DeltaView) -> None:
        name = delta.codebook.name
        lane = self._lanes.setdefault(name, Lane(name))
        self._observer.latest(name, delta.revision)
        if lane.heard(delta):
            self._start(lane)

    def _start(self, lane: Lane) -> None:
        """Let the lane do the most urgent thing that is due, unless it is at work."""
        now = self._clock()
        if lane.busy or not (lane.queue or (lane.gone and now >= lane.retry.due_at) or lane.probes_due(now)):
            return
        lane.task = self._tasks.create_task(self._work(lane))

    async def _work(self, lane: Lane) -> None:
        if lane.gone:
            await self._drop(lane)
            return
        while (delta := lane.next_update()) is not None:
            packed = await self._apply(lane, delta)
            if packed is not None:
                await self._probe(lane, delta, packed)
        if lane.probes_due(self._clock()):
            await self._probe_again(lane)

    async def _apply(self, lane: Lane, delta: DeltaView) -> PackedUpdate | None:
        name = str(lane.name)
        try:
            packed = await self._updates.apply(delta)
        except Exception as exc:  # noqa: BLE001 - one codebook's trouble must stay its own, whatever it is
            error = exc if isinstance(exc, HorenError) else Internal(f"the update failed with {type(exc).__name__}.")
            log.warning("update refused", codebook=name, revision=delta.revision, code=error.code, reason=str(exc))
            lane.refused(delta, error, self._clock())
            self._observer.staging_refused(lane.name, error.code)
            self._publish()
            return None
        lane.flipped(delta, packed)
        # Before the next await: no heartbeat may name a revision that another API server cannot see yet.
        self._publish()
        self._observer.flipped(lane.name, delta.revision)
        log.info("revision applied", codebook=name, revision=delta.revision, added=len(delta.added))
        return packed

    async def _probe(self, lane: Lane, delta: DeltaView, packed: PackedUpdate) -> None:
        failed = [
            ProbeFailure(probe=probe, base=delta.base, revision=delta.revision, reason=reason)
            for probe, reason in await self._asked(lane, packed.probes)
            if reason is not None
        ]
        lane.probed(delta, failed, self._clock())
        self._publish()

    async def _probe_again(self, lane: Lane) -> None:
        asked = lane.state.failed
        verdicts = await self._asked(lane, [it.probe for it in asked])
        lane.probed_again([it for it, (_, reason) in zip(asked, verdicts, strict=True) if reason], self._clock())
        self._publish()

    async def _asked(self, lane: Lane, probes: Sequence[Probe]) -> list[tuple[Probe, str | None]]:
        """Return each probe with what it failed by, None if it did not; the engine answers them in one batch."""
        parameters = lane.state.parameters
        if parameters is None:
            return []
        reasons = await asyncio.gather(*(self._prober.failure(lane.name, parameters, probe) for probe in probes))
        for probe, reason in zip(probes, reasons, strict=True):
            if reason is not None:
                log.warning("probe failed", codebook=str(lane.name), edit=probe.edit_id, reason=reason)
        return list(zip(probes, reasons, strict=True))

    async def _drop(self, lane: Lane) -> None:
        # No new request may be tagged with what the workers are about to forget.
        lane.state = CodebookState()
        lane.queue.clear()
        self._publish()
        try:
            await self._engine.drop(str(lane.name))
        except Exception as exc:  # noqa: BLE001 - it is gone for clients; its memory is tried again
            log.warning("drop refused", codebook=str(lane.name), reason=str(exc))
            lane.retry.failed(self._clock())
            return
        if lane.gone:
            del self._lanes[lane.name]
        self._publish()

    def _publish(self, *, news: bool = True) -> None:
        codebooks = {name: lane.state for name, lane in sorted(self._lanes.items()) if lane.state.latest}
        self._show(
            AgentState(
                codebooks=codebooks,
                confirmed_at=self._confirmed_at,
                ready=self._ready.is_set(),
                tickets=self._updates.tickets,
            )
        )
        if news:
            self._news.set()

    def _report(self) -> ReplicaReport:
        states = {name: lane.state for name, lane in self._lanes.items() if lane.state.applied}
        failed = [(name, it) for name, state in states.items() for it in state.failed]
        refused = [(name, lane.state.refused) for name, lane in self._lanes.items()]
        return ReplicaReport(
            applied={name: state.applied for name, state in states.items()},
            probed={name: state.probed for name, state in states.items()},
            failed_probes=tuple(it.public(name) for name, it in failed),
            refused=tuple(it.public(name) for name, it in refused if it),
        )
