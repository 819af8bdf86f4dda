"""Intervals: Wilson's against published values, the bootstrap's against what theory says of it."""

from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.evals.metrics.intervals import (
    Estimate,
    Sample,
    bootstrap_mean,
    bootstrap_overall,
    difference,
    mean_with_interval,
    paired_difference,
    wilson,
)

VALUES = st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        # Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson(hits: int, total: int, low: float, high: float) -> None:
    found = wilson(hits, total)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert (found.value, found.count, found.method) == (hits / total, total, "wilson")


@pytest.mark.parametrize(("hits", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share_is_refused(hits: int, total: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(hits, total)


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0.5, 0.999))
def test_wilson_holds_the_share_and_widens_with_the_level(hits: int, more: int, level: float) -> None:
    found, wider = wilson(hits, hits + more, level=level), wilson(hits, hits + more, level=(1 + level) / 2)
    assert 0.0 <= wider.low <= found.low <= found.value <= found.high <= wider.high <= 1.0
    assert found.high - found.low > 0


@given(VALUES, st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_the_bootstrap_holds_the_mean_and_repeats_itself(values: list[float], seed: int) -> None:
    found = bootstrap_mean(values, seed=seed, resamples=200)
    assert found == bootstrap_mean(values, seed=seed, resamples=200)
    assert found.value == pytest.approx(sum(values) / len(values))
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found.count == len(values)


def test_the_bootstrap_of_equal_values_has_no_width() -> None:
    found = bootstrap_mean([0.1] * 7, seed=0)
    assert found.low == found.value == found.high


def test_the_width_is_that_of_the_normal_approximation() -> None:
    values = [(number % 10) / 9 for number in range(400)]
    mean = sum(values) / len(values)
    error = sqrt(sum((value - mean) ** 2 for value in values) / len(values) / len(values))
    found = bootstrap_mean(values, seed=0, resamples=4000)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)


def test_answers_of_one_case_are_drawn_together() -> None:
    """Ten answers of one case that are all equal say no more than one of them."""
    single = [float(number % 2) for number in range(40)]
    repeated = [value for value in single for _ in range(10)]
    cases = [number for number in range(40) for _ in range(10)]
    alone, together = bootstrap_mean(single, seed=0), bootstrap_mean(repeated, seed=0, cases=cases)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    assert bootstrap_mean(repeated, seed=0).low > together.low + 0.05


def test_the_order_of_the_answers_of_a_case_changes_nothing() -> None:
    found = bootstrap_mean([0.0, 1.0, 0.5, 0.2], seed=1, cases=["a", "b", "a", "b"])
    again = bootstrap_mean([0.5, 0.2, 0.0, 1.0], seed=1, cases=["a", "b", "a", "b"])
    assert (found.low, found.high) == pytest.approx((again.low, again.high))


@pytest.mark.parametrize(
    ("values", "cases", "method"),
    [
        ([1.0, 0.0, 1.0], None, "wilson"),
        ([1.0, 0.0, 1.0], ["a", "b", "c"], "wilson"),
        ([1.0, 0.0, 1.0], ["a", "b", "a"], "bootstrap"),
        ([0.0, 0.0, 0.0], ["a", "b", "a"], "wilson"),
        ([0.5, 0.5, 0.5], ["a", "b", "a"], "bootstrap"),
        ([1.0, 0.5], None, "bootstrap"),
    ],
)
def test_the_interval_that_fits(values: list[float], cases: list[str] | None, method: str) -> None:
    assert mean_with_interval(values, seed=0, cases=cases).method == method


@pytest.mark.parametrize(("value", "hits"), [(0.0, 0), (1.0, 20)])
def test_equal_answers_say_no_more_than_there_are_cases(value: float, hits: int) -> None:
    found, by_hand = (
        mean_with_interval([value] * 60, seed=0, cases=[place % 20 for place in range(60)]),
        wilson(hits, 20),
    )
    assert (found.value, found.count) == (value, 60)
    assert (found.low, found.high) == (by_hand.low, by_hand.high)


def test_nothing_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_with_interval([], seed=0)
    with pytest.raises(ValueError, match="2 values of 1 cases"):
        bootstrap_mean([0.0, 1.0], seed=0, cases=["a"])


def test_overall_draws_the_three_together() -> None:
    """Where all three are the same column, the interval is that of the column itself."""
    values, cases = [float(number % 3 > 0) for number in range(60)], list(range(60))
    column = Sample(values, cases)
    alone = bootstrap_mean(values, seed=3, cases=cases)
    found = bootstrap_overall(column, column, column, seed=3)
    assert (found.value, found.low, found.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_overall_of_samples_with_other_cases() -> None:
    """A draw may leave out the one case that has a locality; such draws say nothing."""
    found = bootstrap_overall(
        Sample([1.0, 1.0, 0.5], ["a", "b", "c"]), Sample([0.5, 0.5], ["a", "b"]), Sample([1.0], ["c"]), seed=0
    )
    assert found.value == pytest.approx((2.5 / 3 * 0.5) ** (1 / 3))
    assert 0.0 < found.low <= found.value <= found.high <= 1.0
    assert found.count == 1


def test_overall_is_0_where_one_of_the_three_is() -> None:
    ones, zeros = Sample([1.0] * 5, range(5)), Sample([0.0] * 5, range(5))
    assert bootstrap_overall(ones, zeros, ones, seed=0) == Estimate(
        value=0.0, low=0.0, high=0.0, count=5, method="bootstrap"
    )


def test_a_paired_difference_is_sharper_than_an_unpaired_one() -> None:
    first = [number / 99 for number in range(100)]
    second = [value * 0.9 + 0.08 for value in first]
    paired = paired_difference(first, second, seed=0)
    apart = difference(Sample(first, range(100)), Sample(second, range(100)), seed=0)
    assert paired.value == pytest.approx(apart.value) == pytest.approx(0.03)
    assert 0 < paired.low < paired.high
    assert apart.low < 0 < apart.high


def test_a_difference_is_second_less_first() -> None:
    assert paired_difference([0.0, 0.0], [1.0, 1.0], seed=0).value == 1.0
    found = difference(Sample([0.0] * 4, range(4)), Sample([1.0] * 9, range(9)), seed=0)
    assert (found.value, found.low, found.high, found.count) == (1.0, 1.0, 1.0, 4)
    with pytest.raises(ValueError, match="zip"):
        paired_difference([0.0], [1.0, 1.0], seed=0)
