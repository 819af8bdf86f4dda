"""How far one refined query can bring a key: the spherical bound, and which keys may still be among the best two.

A refined query lies at an angle `reach` from the query, so the score of a key at angle t lies between
``cos(t + reach)`` and ``cos(t - reach)``. All in float64, and rounded outwards by `SLACK`. Unit queries and keys only.
"""

import math
from typing import Final

SLACK: Final = 1.25e-4
"""By how much a first score may be off: 2^-24 times the longest chain of sums (README), a hundredfold what is seen."""
MOST_BETA: Final = 2000.0
"""Largest beta at which a mean score tells anything: the factor by which weights may differ is e there."""
_ANGLE_SLACK: Final = 1e-5
"""By how much a reach may be off, in radians."""


def reach_of(chord: float) -> float:
    """Return the angle between two unit vectors that are `chord` apart, rounded up."""
    return 2.0 * math.asin(min(1.0, 0.5 * chord)) + (_ANGLE_SLACK if chord > 0.0 else 0.0)


def widest_reach(agreement: float, gamma: float) -> float:
    """Return an upper bound of the reach of one damped step that is known by scores alone.

    Parameters
    ----------
    agreement
        What ``S = sum p_i s_i``, the softmax's mean score, is at least. The attractor's length is at most 1, so its
        cosine with the query is at least S where that is positive.
    gamma
        Damping.
    """
    if not agreement > 0.0:
        return math.asin(gamma / (1.0 - gamma)) + _ANGLE_SLACK if gamma < 0.5 else math.pi
    cosine = min(1.0, agreement)
    sine = math.sqrt(1.0 - cosine * cosine)
    return math.atan2(gamma * sine, (1.0 - gamma) + gamma * cosine) + _ANGLE_SLACK


def least_agreement(mean: float, top: float, beta: float) -> float:
    """Return what S is at least by exact scores, where first ones have this mean under the softmax, and this maximum.

    The attractor is added up with weights from scores that are computed, too, so two weights may differ by a factor of
    ``exp(4 beta SLACK)``; the mean distance of a score from S is at most twice that of the highest. Where `beta` is so
    large that rounding decides nothing is known, which is -1.
    """
    if beta > MOST_BETA:
        return -1.0
    return mean - SLACK - 2.0 * math.expm1(4.0 * beta * SLACK) * max(0.0, top - mean)


def settles(best: float, second: float, threshold: float, above: float, reach: float) -> bool:
    """Return whether the first scores of the best entry and of the best beside it decide, wherever the query is led.

    Parameters
    ----------
    threshold
        No match up to this score.
    above
        A match above this score, whichever entry has it; at least `threshold`.
    """
    # Refined scores are computed, too, and may be off by as much as first ones.
    if highest(best, reach) + SLACK <= threshold:
        return True
    least = lowest(best, reach) - SLACK
    return least > above and highest(second, reach) + SLACK < least


def lowest(score: float, reach: float) -> float:
    """Return what a key of this first score keeps at least."""
    return math.cos(min(math.pi, _angle(score - SLACK) + reach))


def highest(score: float, reach: float) -> float:
    """Return what a key of this first score gets at most."""
    return math.cos(max(0.0, _angle(score + SLACK) - reach))


def cut_for(needed: float, reach: float) -> float:
    """Return the first score below which no key can get `needed`, one that is exact but for its last bits."""
    if needed == -math.inf:
        return needed
    return math.cos(min(math.pi, _angle(needed - SLACK) + reach)) - SLACK


def _angle(cosine: float) -> float:
    return math.acos(min(1.0, max(-1.0, cosine)))
