"""The task that keeps an API server's gauges up to date."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.metrics import ServingMetrics

PERIOD_S: Final = 2.0
"""Time between two readings, in seconds."""
IDLE_PERIODS: Final = 15
"""Of them, how many pass between two readings of an engine that is asked nothing."""

log = structlog.get_logger(__name__)


async def keep_gauges(
    metrics: ServingMetrics,
    served: ServedCodebooks,
    status: Callable[[], Awaitable[dict[str, Any] | None]],
    *,
    period_s: float = PERIOD_S,
) -> None:
    """Read the table every `period_s` seconds until cancelled, and the engine's `status` as often while it changes.

    A call keeps vLLM's workers polling for a second, so an engine that this server asks nothing is read more seldom
    (`IDLE_PERIODS`). `status` answers None in a server that leaves the engine to another one.
    """
    read, periods = -1, 0
    while True:
        changes = metrics.changes
        due = changes != read or periods >= IDLE_PERIODS
        try:
            await read_gauges(metrics, served, status if due else _nothing)
            read, periods = (changes, 1) if due else (read, periods + 1)
        except Exception:  # a metric that stands still is better than none
            log.exception("reading the gauges failed")
        await asyncio.sleep(period_s)


async def _nothing() -> None:
    """Stand for a status that is not asked for."""


async def read_gauges(
    metrics: ServingMetrics, served: ServedCodebooks, status: Callable[[], Awaitable[dict[str, Any] | None]]
) -> None:
    """Read the table and the engine's `status` once."""
    metrics.serving(served.revisions())
    metrics.lease_age(served.lease_age_s)
    report = await status()
    if report is not None:
        metrics.engine(report)
