"""What edits are worth at the same false-fire rate: thresholds differ between presets, rates can be made equal.

Answers were given at a codebook's own threshold. A higher limit on the score only takes fires away, so what it would
have given follows from the scores that came with the answers. A lower one cannot be known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from horen_vllm.evals.metrics.intervals import Cases, Estimate, mean_with_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """An answer as far as the limit matters.

    Attributes
    ----------
    fired
        Whether an edit answered, at the codebook's own threshold.
    score
        Best score of the codebook; None when it gave none, which only an answer that nothing fired for can have.
    value
        What the answer is worth: 0 to 1.
    without
        What counts instead where no edit fires: 0, or the worth of the base model's answer.
    """

    fired: bool
    score: float | None
    value: float = 0.0
    without: float = 0.0

    def __post_init__(self) -> None:
        if self.fired and self.score is None:
            raise ValueError("an answer that an edit fired for has a score.")

    def fires_above(self, limit: float | None) -> bool:
        """Whether it would still fire if its score had to be above `limit` as well; None for the own threshold."""
        return self.fired and (limit is None or (self.score is not None and self.score > limit))


@dataclass(frozen=True, slots=True, kw_only=True)
class AtEqualRate:
    """Answers at the lowest limit at which negatives fire at most so often.

    Attributes
    ----------
    rate
        Share of the negatives that may fire.
    limit
        Scores must be above it; None when the codebook's own threshold is the bound.
    negatives
        Share of the negatives that fire at the limit.
    positives
        Mean worth of the positives at the limit.
    bounded_by_own_threshold
        The negatives fire at most so often as it is: with a lower threshold the positives could be worth more.
    """

    rate: float
    limit: float | None
    negatives: Estimate
    positives: Estimate
    bounded_by_own_threshold: bool


def score_limit(negatives: Sequence[Scored], rate: float) -> float | None:
    """Return the lowest limit on the score at which at most `rate` of the negatives fire.

    None when they do at the codebook's own threshold. Equal scores fall together.
    """
    if not negatives:
        raise ValueError("a false-fire rate needs negatives.")
    # The small addition: 0.29 * 100 is 28.999... in floating point.
    allowed = int(rate * len(negatives) + 1e-9)
    fired = sorted((each.score for each in negatives if each.fired and each.score is not None), reverse=True)
    return fired[allowed] if len(fired) > allowed else None


def at_equal_rate(
    positives: Sequence[Scored],
    negatives: Sequence[Scored],
    rate: float,
    *,
    seed: int,
    cases: Cases | None = None,
    negative_cases: Cases | None = None,
) -> AtEqualRate:
    """Return what the positives are worth where at most `rate` of the negatives fire.

    Parameters
    ----------
    cases, negative_cases
        Case of each positive and of each negative, for the intervals; None when each is a case of its own.
    """
    limit = score_limit(negatives, rate)
    worth = [each.value if each.fires_above(limit) else each.without for each in positives]
    fired = [float(each.fires_above(limit)) for each in negatives]
    return AtEqualRate(
        rate=rate,
        limit=limit,
        negatives=mean_with_interval(fired, seed=seed, cases=negative_cases),
        positives=mean_with_interval(worth, seed=seed, cases=cases),
        bounded_by_own_threshold=limit is None,
    )
