"""Means with intervals: the bootstrap over cases, and Wilson's for shares.

Answers that belong to one case (an edit and its rephrases) are not independent, so cases are what is drawn again
(Efron and Tibshirani 1993, percentile intervals). Where every value is yes or no and every case gave one of them,
`mean_with_interval` takes Wilson's interval (Wilson 1927), which does not shrink to nothing at 0 and at 1. Where cases
gave several and all are the same, it takes Wilson's over the cases.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import NormalDist
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 2000
"""Times the cases are drawn again."""
LEVEL: Final = 0.95
_CELLS: Final = 1_000_000
"""Draws held in memory at once."""

Floats: TypeAlias = NDArray[np.float64]
Cases: TypeAlias = Sequence[Hashable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its interval.

    Attributes
    ----------
    value
        The number of the sample itself.
    count
        Values behind it; of a pair of samples, those of the smaller one.
    """

    value: float
    low: float
    high: float
    count: int
    method: Literal["bootstrap", "wilson"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Values of one metric, each with the case that it belongs to."""

    values: Sequence[float]
    cases: Cases

    def __post_init__(self) -> None:
        if len(self.values) != len(self.cases):
            raise ValueError(f"{len(self.values)} values of {len(self.cases)} cases.")
        if not self.values:
            raise ValueError("an interval needs at least one value.")


def wilson(hits: int, total: int, *, level: float = LEVEL) -> Estimate:
    """Return a share with Wilson's score interval."""
    if not 0 <= hits <= total or not total:
        raise ValueError(f"{hits} of {total} is no share.")
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (hits + z * z / 2) / (total + z * z)
    half = z * sqrt(hits * (total - hits) / total + z * z / 4) / (total + z * z)
    # At the ends the bound is exactly the end, which rounding misses.
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == total else min(1.0, centre + half)
    return Estimate(value=hits / total, low=low, high=high, count=total, method="wilson")


def bootstrap_mean(
    values: Sequence[float],
    *,
    seed: int,
    cases: Cases | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """Return the mean with the interval of its bootstrap over cases.

    Parameters
    ----------
    cases
        Case of each value; None when every value is a case of its own.
    """
    sample = Sample(values, _cases(values, cases))
    means = _resampled([sample], seed=seed, resamples=resamples)[:, 0]
    return _estimate(_mean(sample), means, len(values), level)


def mean_with_interval(values: Sequence[float], *, seed: int, cases: Cases | None = None) -> Estimate:
    """Return the mean with the interval that fits.

    That is Wilson's for one yes or no a case. Several answers of a case are not independent, so the bootstrap draws
    whole cases again. Where all answers are yes, or all are no, that would have no width: there it is Wilson's of as
    many answers as there are cases.

    Parameters
    ----------
    cases
        Case of each value; None when every value is a case of its own.
    """
    sample = Sample(values, _cases(values, cases))
    alike, apart = set(sample.values), len(set(sample.cases))
    if alike <= {0.0, 1.0}:
        if apart == len(sample.values):
            return wilson(int(sum(sample.values)), apart)
        if len(alike) == 1:
            return replace(wilson(int(sample.values[0]) * apart, apart), count=len(sample.values))
    return bootstrap_mean(values, seed=seed, cases=cases)


def bootstrap_overall(
    reliability: Sample,
    generalisation: Sample,
    locality: Sample,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """Return the overall performance, the geometric mean of three means over the same cases, drawn again together."""
    samples = [reliability, generalisation, locality]
    means = _resampled(samples, seed=seed, resamples=resamples)
    value = float(np.prod([_mean(sample) for sample in samples]) ** (1 / 3))
    return _estimate(value, np.prod(means, axis=1) ** (1 / 3), min(len(sample.values) for sample in samples), level)


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    seed: int,
    cases: Cases | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """Return mean(second) - mean(first) of values that were measured on the same questions, in the same order."""
    gains = [after - before for before, after in zip(first, second, strict=True)]
    return bootstrap_mean(gains, seed=seed, cases=cases, resamples=resamples, level=level)


def difference(
    first: Sample, second: Sample, *, seed: int, resamples: int = RESAMPLES, level: float = LEVEL
) -> Estimate:
    """Return mean(second) - mean(first) of two samples that share no questions, each drawn again by itself."""
    before = _resampled([first], seed=seed, resamples=resamples)[:, 0]
    after = _resampled([second], seed=seed + 1, resamples=resamples)[:, 0]
    count = min(len(first.values), len(second.values))
    return _estimate(_mean(second) - _mean(first), after - before, count, level)


def _cases(values: Sequence[float], cases: Cases | None) -> Cases:
    return range(len(values)) if cases is None else cases


def _mean(sample: Sample) -> float:
    return float(np.mean(np.asarray(sample.values, dtype=np.float64)))


def _estimate(value: float, drawn: Floats, count: int, level: float) -> Estimate:
    tail = (1 - level) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    # Rounding of sums must not push the number of the sample out of an interval without width.
    low, high = min(float(low), value) if np.isclose(low, value) else float(low), float(high)
    high = max(high, value) if np.isclose(high, value) else high
    return Estimate(value=value, low=low, high=high, count=count, method="bootstrap")


def _resampled(samples: Sequence[Sample], *, seed: int, resamples: int) -> Floats:
    """Return the means [resamples, samples] over cases drawn again; NaN where a draw has no value of a sample."""
    places = {case: place for place, case in enumerate(dict.fromkeys(c for sample in samples for c in sample.cases))}
    sums, counts = (np.zeros((len(places), len(samples))) for _ in range(2))
    for column, sample in enumerate(samples):
        rows = np.fromiter((places[case] for case in sample.cases), dtype=np.int64, count=len(sample.cases))
        np.add.at(sums[:, column], rows, np.asarray(sample.values, dtype=np.float64))
        np.add.at(counts[:, column], rows, 1.0)
    random, many = np.random.default_rng(seed), max(1, _CELLS // len(places))
    drawn: list[Floats] = []
    for start in range(0, resamples, many):
        rows = random.integers(len(places), size=(min(many, resamples - start), len(places)))
        with np.errstate(invalid="ignore"):
            drawn.append(sums[rows].sum(axis=1) / counts[rows].sum(axis=1))
    return np.concatenate(drawn)
