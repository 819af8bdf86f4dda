"""What is done in a codebook's lane: updates, the probes after them, and its end."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from horen_vllm.control.messages import DeltaView
from horen_vllm.errors import HorenError, Internal
from horen_vllm.failpoints import failpoint
from horen_vllm.serving.engine import Engine
from horen_vllm.serving.lane import Lane
from horen_vllm.serving.observer import Observer
from horen_vllm.serving.packing import PackedUpdate
from horen_vllm.serving.probe import Prober
from horen_vllm.serving.state import CodebookState, Probe, ProbeFailure
from horen_vllm.serving.updates import Updates

log = structlog.get_logger(__name__)


class LaneWork:
    """Moves one codebook of an engine at a time; what goes wrong is noted in its lane.

    Parameters
    ----------
    updates, engine, prober
        How revisions get into the engine and out of it, and how it is asked about them.
    publish
        Called after every change, before anything else may see it.
    observer
        Who counts.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        *,
        updates: Updates,
        engine: Engine,
        prober: Prober,
        publish: Callable[[], None],
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._updates = updates
        self._engine = engine
        self._prober = prober
        self._publish = publish
        self._observer = observer
        self._clock = clock

    async def do(self, lane: Lane) -> None:
        """Drop a codebook that is gone; else bring it as far as is known, ask it, and ask again what is due."""
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
            if lane.split(delta):
                log.info("update tried again in parts", codebook=name, revision=delta.revision, reason=str(exc))
                return None
            error = exc if isinstance(exc, HorenError) else Internal(f"the update failed with {type(exc).__name__}.")
            log.warning("update refused", codebook=name, revision=delta.revision, code=error.code, reason=str(exc))
            lane.refused(delta, error, self._clock())
            self._observer.staging_refused(lane.name, error.code)
            self._publish()
            return None
        if not lane.flipped(delta, packed):
            return None
        # Before the next await: no heartbeat may name a revision that another API server cannot see yet.
        self._publish()
        self._observer.flipped(lane.name, delta.revision)
        log.info("revision applied", codebook=name, revision=delta.revision, added=len(delta.added))
        return packed

    async def _probe(self, lane: Lane, delta: DeltaView, packed: PackedUpdate) -> None:
        failpoint("replica.before_probe")
        failed = [
            ProbeFailure(probe=probe, base=delta.base, revision=delta.revision, reason=reason)
            for probe, reason in await self._asked(lane, packed.probes)
            if reason is not None
        ]
        failpoint("replica.after_probe")
        lane.probed(delta, failed, self._clock())
        self._publish()

    async def _probe_again(self, lane: Lane) -> None:
        asked = lane.state.failed
        verdicts = await self._asked(lane, [it.probe for it in asked])
        failed = [it for it, (_, reason) in zip(asked, verdicts, strict=True) if reason]
        lane.probed_again(asked, failed, self._clock())
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
        lane.state, lane.dropped = CodebookState(), False
        lane.queue.clear()
        self._publish()
        try:
            await self._engine.drop(str(lane.name))
        except Exception as exc:  # noqa: BLE001 - it is gone for clients; its memory is tried again
            log.warning("drop refused", codebook=str(lane.name), reason=str(exc))
            lane.retry.failed(self._clock())
            return
        lane.dropped = True
