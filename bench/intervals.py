"""The interval of a median that benchmarks report."""

import math
from collections.abc import Sequence
from statistics import median


def interval(values: Sequence[float]) -> dict[str, float]:
    """Return the median and an interval that holds the true one in at least 95 % of cases (n >= 6)."""
    ordered, count = sorted(values), len(values)
    below, outside = 0, 0.5**count
    # The interval may leave out `below` values at either end as long as both tails stay under 5 %.
    while 2.0 * (outside + math.comb(count, below + 1) * 0.5**count) <= 0.05:
        below += 1
        outside += math.comb(count, below) * 0.5**count
    return {"median": median(ordered), "low": ordered[below], "high": ordered[-1 - below]}
