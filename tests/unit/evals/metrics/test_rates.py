"""Worth at an equal false-fire rate."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horen_vllm.evals.metrics.rates import Scored, at_equal_rate, score_limit

SCORED = st.builds(
    Scored,
    fired=st.booleans(),
    # Few values, so that scores are often equal.
    score=st.sampled_from([0.1, 0.5, 0.6, 0.7, 0.9]),
    value=st.sampled_from([0.0, 0.5, 1.0]),
)
MANY = st.lists(SCORED, min_size=1, max_size=30)


def fired(*scores: float, value: float = 1.0) -> list[Scored]:
    return [Scored(fired=True, score=score, value=value) for score in scores]


def silent(*scores: float | None) -> list[Scored]:
    return [Scored(fired=False, score=score) for score in scores]


def test_the_limit_lets_the_allowed_share_fire() -> None:
    negatives = fired(0.9, 0.8, 0.7, 0.6) + silent(*[0.2] * 6)
    assert score_limit(negatives, 0.2) == 0.7
    assert score_limit(negatives, 0.0) == 0.9
    assert score_limit(negatives, 0.19) == 0.8
    # Four of ten fire anyway.
    assert score_limit(negatives, 0.4) is None
    assert score_limit(negatives, 1.0) is None


def test_what_does_not_fire_sets_no_limit() -> None:
    """An anchor kept it silent, whatever its score: no limit is needed for it."""
    assert score_limit(fired(0.6) + silent(0.95, 0.94, None), 0.25) is None
    assert score_limit(fired(0.6) + silent(0.95, 0.94, None), 0.0) == 0.6


def test_equal_scores_fall_together() -> None:
    negatives = fired(0.9, 0.8, 0.8, 0.8) + silent(*[0.1] * 6)
    assert score_limit(negatives, 0.2) == 0.8
    assert at_equal_rate(fired(0.8, 0.81), negatives, 0.2, seed=0).negatives.value == 0.1


@pytest.mark.parametrize(("rate", "of", "allowed"), [(0.29, 100, 29), (0.07, 100, 7), (0.05, 19, 0), (0.05, 20, 1)])
def test_the_allowed_number_is_not_lost_to_rounding(rate: float, of: int, allowed: int) -> None:
    negatives = fired(*(1 - place / 1000 for place in range(of)))
    found = at_equal_rate(fired(0.5), negatives, rate, seed=0)
    assert found.negatives.value == allowed / of


def test_positives_at_the_limit() -> None:
    negatives = fired(0.8, 0.6) + silent(*[0.2] * 18)
    positives = [
        *fired(0.9, 0.7, value=1.0),
        Scored(fired=True, score=0.95, value=0.0),
        # Silenced by the limit, so the base model's answer counts.
        Scored(fired=True, score=0.55, value=1.0, without=0.25),
        # Never fired: what it is worth is the base model's answer, too.
        Scored(fired=False, score=0.3, value=1.0, without=0.5),
    ]
    found = at_equal_rate(positives, negatives, 0.05, seed=0)
    assert found.limit == 0.6
    assert found.negatives.value == 0.05
    assert found.positives.value == pytest.approx((1 + 1 + 0 + 0.25 + 0.5) / 5)
    assert not found.bounded_by_own_threshold


def test_with_fewer_false_fires_than_allowed_the_own_threshold_is_the_bound() -> None:
    found = at_equal_rate(fired(0.5, 0.4), fired(0.8) + silent(*[0.2] * 19), 0.05, seed=0)
    assert (found.limit, found.bounded_by_own_threshold) == (None, True)
    assert (found.positives.value, found.negatives.value) == (1.0, 0.05)


def test_negatives_of_one_case_are_drawn_together() -> None:
    negatives = [each for case in range(20) for each in (fired(0.9) * 5 if case < 4 else silent(*[0.2] * 5))]
    cases = [case for case in range(20) for _ in range(5)]
    apart = at_equal_rate(fired(0.9), negatives, 1.0, seed=0).negatives
    together = at_equal_rate(fired(0.9), negatives, 1.0, seed=0, negative_cases=cases).negatives
    assert (apart.value, apart.method) == (together.value, "wilson") == (0.2, "wilson")
    # Four of twenty, and not twenty of a hundred.
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


@given(MANY, st.floats(0, 1))
def test_the_limit_is_the_lowest_that_keeps_the_rate(negatives: list[Scored], rate: float) -> None:
    limit = score_limit(negatives, rate)
    allowed = rate * len(negatives) + 1e-6
    assert sum(each.fires_above(limit) for each in negatives) <= allowed
    if limit is not None:
        lower = max(
            (each.score for each in negatives if each.fired and each.score and each.score < limit), default=-inf
        )
        assert sum(each.fires_above(lower) for each in negatives) > allowed - 1e-5


@given(MANY, MANY, st.floats(0, 1), st.floats(0, 1))
def test_more_false_fires_never_silence_a_positive(
    positives: list[Scored], negatives: list[Scored], one: float, other: float
) -> None:
    strict, loose = sorted((one, other))
    low, high = score_limit(negatives, loose), score_limit(negatives, strict)
    assert all(each.fires_above(low) for each in positives if each.fires_above(high))


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="has a score"):
        Scored(fired=True, score=None)
    with pytest.raises(ValueError, match="needs negatives"):
        score_limit([], 0.05)
