"""Does the database answer? Asked all the time, and told to health checks and Prometheus."""

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import structlog
from grpc_health.v1 import health_pb2

from horen_vllm.control.metrics import ControlMetrics
from horen_vllm.errors import HorenError
from horen_vllm.registry.ports import Registry

OVERALL: Final = ""
"""Name under which the health service answers for the whole server."""
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING

log = structlog.get_logger(__name__)


class Pulse:
    """Keeps the health service's states, and the gauges of what the registry holds.

    Parameters
    ----------
    registry
        What is asked.
    states
        The health servicer.
    services
        Names that it answers for, beside `OVERALL`.
    metrics
        Where the gauges are.
    period_s
        Seconds between two looks; a look that takes longer counts as no answer.
    """

    def __init__(
        self, *, registry: Registry, states: Any, services: tuple[str, ...], metrics: ControlMetrics, period_s: float
    ) -> None:
        self._registry = registry
        self._states = states
        self._services = (OVERALL, *services)
        self._metrics = metrics
        self._period_s = period_s
        self._serving: bool | None = None
        # One thread: looks at a database that hangs must not pile up.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="horen-pulse")

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._period_s)

    async def look(self) -> None:
        """Ask once, and tell."""
        try:
            async with asyncio.timeout(self._period_s):
                counts = await asyncio.get_running_loop().run_in_executor(self._thread, self._registry.counts)
        except (HorenError, TimeoutError) as exc:
            await self._tell(serving=False, why=getattr(exc, "code", "no answer in time"))
        else:
            self._metrics.show(counts)
            await self._tell(serving=True)

    def close(self) -> None:
        """Let go of the thread, which may be waiting for the database."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _tell(self, *, serving: bool, why: str | None = None) -> None:
        self._metrics.up.set(serving)
        if serving is self._serving:
            return
        if not serving:
            log.warning("the database does not answer: not serving", reason=why)
        elif self._serving is False:
            log.info("the database answers again: serving")
        self._serving = serving
        tell = functools.partial(self._states.set, status=_SERVING if serving else _NOT_SERVING)
        await asyncio.gather(*map(tell, self._services))
