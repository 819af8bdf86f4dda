"""Percentiles of times with intervals by order statistics, which hold for any distribution and any sample."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def summary(milliseconds: Sequence[float], digits: int = 1) -> dict[str, Any]:
    """Return p50, p99 and the largest of some times, with 95 % intervals ``p50_interval`` and ``p99_interval``."""
    p50, p99 = np.percentile(milliseconds, (50, 99))
    found: dict[str, Any] = {"p50": p50, "p99": p99, "max": max(milliseconds)}
    found = {name: round(float(value), digits) for name, value in found.items()}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        ends = order_interval(milliseconds, share)
        found[f"{name}_interval"] = [None if end is None else round(end, digits) for end in ends]
    return found


def order_interval(values: Sequence[float], share: float) -> tuple[float | None, float | None]:
    """Return two of the values that hold the true quantile between them in at least 95 % of cases.

    Each tail has at most 2.5 %. None for an end that the sample is too small for: no value of 100 is above the true
    99th percentile for certain.
    """
    ordered, count = sorted(values), len(values)
    tail = np.cumsum([_binomial(count, hits, share) for hits in range(count + 1)])
    # Value number r (from 1) is above the quantile when fewer than r values are below it.
    low = int(np.searchsorted(tail, 0.025, side="right"))
    high = int(np.searchsorted(tail, 0.975, side="left")) + 1
    return ordered[low - 1] if low >= 1 else None, ordered[high - 1] if high <= count else None


def _binomial(count: int, hits: int, share: float) -> float:
    log = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(log + hits * math.log(share) + (count - hits) * math.log1p(-share))
