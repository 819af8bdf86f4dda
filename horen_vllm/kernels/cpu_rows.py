"""Route's loops over a row's own numbers on a CPU: a refinement step, the highest scores, the best two entries.

Arrays are C-contiguous; nothing holds the interpreter's lock. A compiler may cut a sum over the width into vectors,
and does so once for each function, so a row has the same bits whoever else is there.
Shapes: B queries, N keys, D width.
"""

from typing import Any, Final

import numpy as np

from horen_vllm.kernels.cpu_compile import Array, compiled

_ZERO: Final = np.float32(0.0)
_ONE: Final = np.float32(1.0)
_LEAST: Final = np.float32(1e-12)
"""Length that a direction is made from at least, as in `core.refine.unit`."""


@compiled
def join_parts(sums: Array, tops: Array, highest: Array, beta: float) -> Array:
    """Return the sums [B, D] of several parts of the keys, each brought to the query's highest score, in order.

    Parameters
    ----------
    sums, tops
        [parts, B, D], [parts, B] float32, as `cpu_keys.sweep_keys` leaves them. The first part's sums are written to.
    highest
        [B] float32, of all scores. Sums that are relative to a far higher top are too small to be squared.
    """
    for row in range(sums.shape[1]):
        total = sums[0, row]
        total *= np.exp(beta * (tops[0, row] - highest[row]))
        for part in range(1, sums.shape[0]):
            factor, more = np.exp(beta * (tops[part, row] - highest[row])), sums[part, row]
            for i in range(total.shape[0]):
                total[i] += factor * more[i]
    joined: Array = sums[0]
    return joined


@compiled
def refine_rows(
    queries: Array, sums: Array, gamma: float, epsilon: float, moving: Array, refined: Array, chords: Array
) -> None:
    """Write the queries [B, D] after one damped step towards the directions of `sums`, and how far each went.

    A row stops for good once its attractor is within `epsilon` of it: `moving` [B] is then False.
    """
    for row in range(sums.shape[0]):
        query, pulled, step = queries[row], sums[row], refined[row]
        length = away = _ZERO
        for i in range(query.shape[0]):
            length += pulled[i] * pulled[i]
        shrink = _ONE / max(np.sqrt(length), _LEAST)
        for i in range(query.shape[0]):
            target = pulled[i] * shrink
            away += (target - query[i]) * (target - query[i])
        moving[row] = moving[row] and np.sqrt(away) > epsilon
        length = chord = _ZERO
        if moving[row]:
            for i in range(query.shape[0]):
                step[i] = (_ONE - gamma) * query[i] + gamma * (pulled[i] * shrink)
                length += step[i] * step[i]
            shrink = _ONE / max(np.sqrt(length), _LEAST)
            for i in range(query.shape[0]):
                step[i] *= shrink
                chord += (step[i] - query[i]) * (step[i] - query[i])
        else:
            step[:] = query
        chords[row] = np.sqrt(chord)


@compiled
def highest_keys(scores: Array, places: Array) -> Any:
    """Write where the highest of `scores` [N] float32 are, in any order, into `places` [k] int64, 1 <= k <= N.

    Returns the lowest of them.
    """
    count = places.shape[0]
    lowest = 0
    for place in range(scores.shape[0]):
        if place < count:
            places[place] = place
        elif scores[place] > scores[places[lowest]]:
            places[lowest] = place
        else:
            continue
        if place >= count - 1:
            for other in range(count):
                if scores[places[other]] < scores[places[lowest]]:
                    lowest = other
    return scores[places[lowest]]


@compiled
def mean_score(scores: Array, beta: float) -> Any:
    """Return ``sum p_i s_i`` of scores [N] float32, N >= 1, with ``p = softmax(beta s)``; in float64."""
    top = scores.max()
    total = weighted = 0.0
    for place in range(scores.shape[0]):
        weight = np.exp(beta * (scores[place] - top))
        total += weight
        weighted += weight * scores[place]
    return weighted / total


@compiled
def best_two(scores: Array, places: Array, owners: Array, sequences: Array) -> tuple[int, float, int, float]:
    """Return the best entry by its best key, that key's score, and the same of the best one beside it; -1 for none.

    Parameters
    ----------
    scores, places
        [k] float32, scores of the keys numbered `places` [k] int64. What is no number is passed over.
    owners, sequences
        [N] int64, the entry of each key; [E] int64. Of equal scores the entry with the higher sequence number is
        better.
    """
    best = second = -1
    score: Any = np.float32(-np.inf)
    second_score: Any = np.float32(-np.inf)
    for number in range(places.shape[0]):
        found, entry = scores[number], owners[places[number]]
        if not found > -np.inf:
            continue
        above_best = best < 0 or found > score or (found == score and sequences[entry] > sequences[best])
        if entry == best:
            score = max(score, found)
        elif above_best:
            second, second_score = best, score
            best, score = entry, found
        elif second < 0 or found > second_score or (found == second_score and sequences[entry] > sequences[second]):
            second, second_score = entry, found
    return best, score, second, second_score
