"""The interval of a median, by hand."""

import pytest

from bench.intervals import interval


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Both tails together, with no value left out at either end: 2 / 2^6 = .031; with one 14 / 64 = .219.
    # Of ten with one 2 * 11 / 2^10 = .021; with two 2 * 56 / 2^10 = .109.
    [(6, 1, 6), (10, 2, 9)],
)
def test_the_interval_of_a_median_by_hand(count: int, low: int, high: int) -> None:
    found = interval(list(range(count, 0, -1)))
    assert found == {"median": (count + 1) / 2, "low": low, "high": high}
