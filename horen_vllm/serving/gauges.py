"""The task that keeps an API server's gauges up to date."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.metrics import ServingMetrics

PERIOD_S: Final = 2.0
"""Time between two readings, in seconds."""

log = structlog.get_logger(__name__)


async def keep_gauges(
    metrics: ServingMetrics,
    served: ServedCodebooks,
    status: Callable[[], Awaitable[dict[str, Any] | None]],
    *,
    period_s: float = PERIOD_S,
) -> None:
    """Read the table and the engine's `status` every `period_s` seconds until cancelled.

    `status` answers None in a server that leaves the engine to another one.
    """
    while True:
        try:
            await read_gauges(metrics, served, status)
        except Exception:  # a metric that stands still is better than none
            log.exception("reading the gauges failed")
        await asyncio.sleep(period_s)


async def read_gauges(
    metrics: ServingMetrics, served: ServedCodebooks, status: Callable[[], Awaitable[dict[str, Any] | None]]
) -> None:
    """Read the table and the engine's `status` once."""
    metrics.serving(served.revisions())
    metrics.lease_age(served.lease_age_s)
    report = await status()
    if report is not None:
        metrics.engine(report)
