"""The sync agent: the one task of an engine that brings new revisions from the control plane into it.

It listens, and hands each codebook's updates to a lane of its own: a bulk update that is staged for a minute holds up
neither another codebook's rollback nor the heartbeat.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

import structlog

from horen_vllm.control.client import HorenClient
from horen_vllm.control.messages import DeltaView, SyncView
from horen_vllm.errors import FailedPrecondition, HorenError, Internal
from horen_vllm.failpoints import failpoint
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import ReplicaReport
from horen_vllm.serving.engine import Engine
from horen_vllm.serving.lane import Lane
from horen_vllm.serving.lane_work import LaneWork
from horen_vllm.serving.observer import Observer
from horen_vllm.serving.packer import Packer
from horen_vllm.serving.probe import Prober
from horen_vllm.serving.settings import ServingSettings
from horen_vllm.serving.state import AgentState
from horen_vllm.serving.updates import Updates

RETRY_S: Final = 0.5
"""Pause after a call that failed, and between two looks at what is due, in seconds."""

log = structlog.get_logger(__name__)


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
        self._show = publish
        self._observer = observer
        self._settings = settings
        self._identity = {"replica_id": settings.replica_id, "model": model, "fingerprint": fingerprint}
        self._clock = clock
        self._updates = Updates(engine, packer, changed=lambda: self._publish(news=False))
        self._work = LaneWork(
            updates=self._updates,
            engine=engine,
            prober=prober,
            publish=self._publish,
            observer=observer,
            clock=clock,
        )
        self._lanes: dict[CodebookName, Lane] = {}
        self._epoch = ""
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
        await self._listen(self._settings.sync_wait_s if self._heard.is_set() else 0.0)

    async def _listen(self, wait_s: float) -> None:
        now = self._clock()
        known = {name: lane.known(now) for name, lane in self._lanes.items() if not lane.gone}
        self._take(await self._ask(known, wait_s))

    def _take(self, news: SyncView) -> None:
        for delta in news.deltas:
            self._hear(delta)
        for name in news.removed_codebooks:
            # It may have been dropped since it was asked about.
            if (lane := self._lanes.get(name)) is not None:
                lane.gone = True
                self._start(lane)
        self._heard.set()
        if news:
            self._publish()

    async def beat(self) -> None:
        """Renew the lease with what is served now, then wait until there is something to say, or it is time."""
        await self._ready.wait()
        self._news.clear()
        sent_at = self._clock()
        epoch = self._epoch
        failpoint("replica.before_heartbeat")
        await self._say(epoch)
        failpoint("replica.after_heartbeat")
        if self._confirmed_at is None or self._clock() - self._confirmed_at >= self._settings.lease_s:
            await self._rejoin()
        if epoch != self._epoch:
            # The registry that took it is not the one that is listened to now.
            return
        # From before the call: the control plane's lease may have begun then, and must not end before ours.
        self._confirmed_at = sent_at
        self._publish(news=False)
        # Not `wait_for`: on Python 3.11 it swallows a cancellation that meets the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(self._settings.sync_wait_s, self._settings.lease_s / 3)):
                await self._news.wait()

    async def mend(self) -> None:
        """Start what has failed and is due again: probes, and drops."""
        for lane in list(self._lanes.values()):
            self._start(lane)
        await asyncio.sleep(RETRY_S)

    async def _say(self, epoch: str) -> None:
        try:
            await asyncio.to_thread(
                self._client.heartbeat,
                **self._identity,
                epoch=epoch,
                report=self._report(),
                lease_s=self._settings.lease_s,
            )
        except FailedPrecondition as error:
            if error.code == "other_epoch":
                # Not left to the other task, which may be waiting for an answer.
                await self._listen(0.0)
            raise

    async def _ask(self, known: Mapping[CodebookName, int], wait_s: float) -> SyncView:
        """Return what the control plane tells; nothing if another answer was of another epoch meanwhile."""
        epoch = self._epoch
        news: SyncView = await asyncio.to_thread(
            self._client.sync, **self._identity, known=known, epoch=epoch, wait_s=wait_s
        )
        if epoch != self._epoch:
            return SyncView(epoch=self._epoch)
        if news.epoch != epoch:
            self._begin(news.epoch)
        return news

    def _begin(self, epoch: str) -> None:
        """Hold back what was told in another epoch, until it has been told and loaded anew."""
        if self._lanes:
            log.warning("the registry is of another epoch: all codebooks are loaded anew", epoch=epoch)
        for lane in self._lanes.values():
            lane.forget()
        # The lease was another registry's: this one has yet to hear of this server, and waits for it only then.
        self._epoch, self._confirmed_at = epoch, None
        self._publish()

    async def _rejoin(self) -> None:
        """Hold back the codebooks that have moved on while this server had no lease, and so was not waited for."""
        applied = {name: lane.state.applied for name, lane in self._lanes.items() if lane.state.applied}
        # After the heartbeat: what is published from now on is not SERVING before this server has it.
        epoch = self._epoch
        missed = await self._ask(applied, 0.0)
        if epoch != self._epoch:
            self._take(missed)
        for delta in missed.deltas:
            if (lane := self._lanes.get(delta.codebook.name)) is not None:
                lane.state = replace(lane.state, owed=delta.revision)

    async def _take_over(self, state: AgentState) -> None:
        applied = await self._engine.take_over()
        await self._updates.clear(state.tickets)
        for text, revision in applied.items():
            name = CodebookName.parse(text)
            self._lanes[name] = Lane.resumed(name, state.codebooks.get(name), revision)
        self._epoch, self._confirmed_at = state.epoch, state.confirmed_at
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
        lane.task = self._tasks.create_task(self._work_in(lane))

    async def _work_in(self, lane: Lane) -> None:
        await self._work.do(lane)
        if lane.gone and lane.dropped:
            del self._lanes[lane.name]
            self._publish()

    def _publish(self, *, news: bool = True) -> None:
        codebooks = {
            name: lane.state for name, lane in sorted(self._lanes.items()) if lane.state.latest or lane.state.owed
        }
        self._show(
            AgentState(
                codebooks=codebooks,
                confirmed_at=self._confirmed_at,
                epoch=self._epoch,
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
