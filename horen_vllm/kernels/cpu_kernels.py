"""Route's loops over keys on a CPU, compiled by numba: each row's numbers are summed in one order, whatever the batch.

Arrays are C-contiguous; nothing holds the interpreter's lock. A sum over the width may be cut into vectors by the
compiler, which does so once for each function: what is compared bit for bit has to come from the same function, here
`score_keys`. Queries come in pairs, which share every key that is read; one that is alone is given twice.
Shapes: B queries (even), P rows of the key buffer, N keys, D width.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numpy as np
from llvmlite import ir
from llvmlite.binding import ffi
from numba import njit
from numba.extending import intrinsic

Array = np.ndarray[Any, Any]

QUAD: Final = 4
"""Keys that are scored at once, then added up while the next ones are scored."""
_RECENT: Final = 256
"""Keys that are added up by themselves, and then to the others: a sum of long chains would lose its last digits."""
_ZERO: Final = np.float32(0.0)
_ONE: Final = np.float32(1.0)
_LEAST: Final = np.float32(1e-12)
"""Length that a direction is made from at least, as in `core.refine.unit`."""


# llvmlite answers to any name with a function of its library. vLLM asks every attribute of every module for its
# `__dict__` when a worker starts on a CPU, and would take that function for one.
with suppress(AttributeError):
    ffi.lib._fntab.setdefault("__dict__", {})  # noqa: SLF001


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, or take what another process compiled on such a machine.

    Sums may be cut into vectors, and products fused with them; not a number stays not a number.
    """
    compiled: Callable[..., Any]
    compiled = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})(function)
    # Without a folder that may be written every process compiles by itself.
    with suppress(RuntimeError):
        compiled.enable_caching()  # type: ignore[attr-defined]
    return compiled


@intrinsic
def _fused(_context: Any, a: Any, _b: Any, _c: Any) -> tuple[Any, Callable[..., Any]]:
    """``a * b + c``, rounded once: what the compiler neither takes apart nor reorders, in whatever loop it stands."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        function = builder.module.declare_intrinsic("llvm.fma", [kind], ir.FunctionType(kind, [kind] * 3))
        return builder.call(function, arguments)

    return a(a, a, a), generate


@_compiled
def _score_four(
    first: Array, second: Array, keys: Array, rows: Array, where: int, stop: int, scores: Array, pair: int
) -> None:
    """Score four keys from `where` on for two queries; instead of those from `stop` on the one before."""
    k0, k1 = keys[rows[min(where, stop - 1)]], keys[rows[min(where + 1, stop - 1)]]
    k2, k3 = keys[rows[min(where + 2, stop - 1)]], keys[rows[min(where + 3, stop - 1)]]
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = _ZERO
    for i in range(first.shape[0]):
        a, b = first[i], second[i]
        a0 += a * k0[i]
        a1 += a * k1[i]
        a2 += a * k2[i]
        a3 += a * k3[i]
        b0 += b * k0[i]
        b1 += b * k1[i]
        b2 += b * k2[i]
        b3 += b * k3[i]
    for place, (a, b) in enumerate(((a0, b0), (a1, b1), (a2, b2), (a3, b3))):
        if where + place < stop:
            scores[pair, where + place] = a
            scores[pair + 1, where + place] = b


@_compiled
def score_keys(queries: Array, keys: Array, rows: Array, start: int, stop: int, scores: Array) -> None:
    """Write the products of all queries [B, D] float32 and the keys `start` to `stop` into `scores` [B, N] float32.

    The keys are the rows `rows` [N] int64 of `keys` [P, D] float32. The product of a query and a key has the same bits
    wherever the two stand, and whoever else is there.
    """
    for where in range(start, stop, QUAD):
        for pair in range(0, queries.shape[0], 2):
            _score_four(queries[pair], queries[pair + 1], keys, rows, where, stop, scores, pair)


@_compiled
def _step(
    queries: Array, sums: Array, weights: Array, keys: Array, rows: Array, where: int, stop: int, scores: Array,
    row: int,
) -> None:  # fmt: skip
    """Add four weighted keys from `where` on to a query's sums, and score the next four, unless they are past `stop`.

    The next ones come from memory while those before are read again from a cache.
    """
    k0, k1 = keys[rows[min(where, stop - 1)]], keys[rows[min(where + 1, stop - 1)]]
    k2, k3 = keys[rows[min(where + 2, stop - 1)]], keys[rows[min(where + 3, stop - 1)]]
    n0, n1 = keys[rows[min(where + 4, stop - 1)]], keys[rows[min(where + 5, stop - 1)]]
    n2, n3 = keys[rows[min(where + 6, stop - 1)]], keys[rows[min(where + 7, stop - 1)]]
    query, total = queries[row], sums[row]
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    a0 = a1 = a2 = a3 = _ZERO
    for i in range(query.shape[0]):
        a = query[i]
        a0 += a * n0[i]
        a1 += a * n1[i]
        a2 += a * n2[i]
        a3 += a * n3[i]
        total[i] = _fused(w3, k3[i], _fused(w2, k2[i], _fused(w1, k1[i], _fused(w0, k0[i], total[i]))))
    for place, score in enumerate((a0, a1, a2, a3)):
        if where + QUAD + place < stop:
            scores[row, where + QUAD + place] = score


@_compiled
def _weigh(
    scores: Array, row: int, where: int, stop: int, beta: float, sums: Array, recent: Array, tops: Array,
    weights: Array,
) -> None:  # fmt: skip
    """Write a query's weights of four keys from `where` on; a score above its top becomes the top."""
    highest = tops[row]
    for key in range(where, min(where + QUAD, stop)):
        highest = max(highest, scores[row, key])
    if highest > tops[row]:
        sums[row] *= np.exp(beta * (tops[row] - highest))
        recent[row] *= np.exp(beta * (tops[row] - highest))
        tops[row] = highest
    for place in range(QUAD):
        weights[place] = np.exp(beta * (scores[row, where + place] - highest)) if where + place < stop else _ZERO


@_compiled
def sweep_keys(
    queries: Array, keys: Array, rows: Array, beta: float, start: int, stop: int, scores: Array, sums: Array,
    tops: Array,
) -> None:  # fmt: skip
    """Write scores as `score_keys` does, but for rounding, and add the weighted keys to `sums` [B, D] float32.

    A key's weight is ``exp(beta (s - top))``. A query's top is the one in `tops` [B] float32, or its highest score so
    far where that is higher; what was added before is then brought to it. Queries share no loop here, so that each has
    the same bits alone: the compiler would cut the sums of two otherwise.
    """
    weights, recent = np.empty(QUAD, np.float32), np.zeros_like(sums)
    for pair in range(0, queries.shape[0], 2):
        _score_four(queries[pair], queries[pair + 1], keys, rows, start, stop, scores, pair)
    for where in range(start, stop, QUAD):
        for row in range(sums.shape[0]):
            _weigh(scores, row, where, stop, beta, sums, recent, tops, weights)
            _step(queries, recent, weights, keys, rows, where, stop, scores, row)
        if (where - start) % _RECENT == _RECENT - QUAD or where + QUAD >= stop:
            sums += recent
            recent[:] = _ZERO


@_compiled
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


@_compiled
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


@_compiled
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
