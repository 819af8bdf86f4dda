"""Route on CPUs: the keys are read once, and again only those that may be among the best two.

What decides (refined queries, the scores that are compared and reported) is computed for each row by itself, in an
order that the keys alone fix. First scores of a sweep only choose which keys are read again. The derivation is in
``README.md``.
Shapes: B queries, N keys of the revision, P rows of the key buffer, D width, E entries.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np
import torch

from horen_vllm.core.match import NO_ENTRY, Routed
from horen_vllm.kernels.bounds import cut_for, lowest, reach_of
from horen_vllm.kernels.cpu_book import Book
from horen_vllm.kernels.cpu_kernels import Array, best_two, highest_keys, refine_rows
from horen_vllm.kernels.groups import RouteGroup

FIRST: Final = 16
"""Keys that are read again at once, the best by first score."""
_WHOLE: Final = 8
"""All keys are read again, for all rows together, where a row needs more than one in so many."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How much was read again for each query.

    Attributes
    ----------
    again
        [B] int64, keys that were read a second time.
    undecided
        [B] bool, whether more than the first few were needed.
    """

    again: torch.Tensor
    undecided: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Found:
    """The best two entries of a query and their scores; `NO_ENTRY` and minus infinity for none."""

    best: int
    score: float
    second: int
    second_score: float


_NOTHING: Final = _Found(NO_ENTRY, -math.inf, NO_ENTRY, -math.inf)


def route_mixed_cpu(queries_BD: torch.Tensor, keys_PD: torch.Tensor, groups: Sequence[RouteGroup]) -> Routed:
    """Route group after group; same contract as ``dispatch.route_mixed``."""
    parts = torch.split(queries_BD, [group.queries for group in groups])
    found = [
        route_cpu(part, keys_PD, group.key_rows, group.owners, group.sequences, **asdict(group.rule))
        for part, group in zip(parts, groups, strict=True)
    ]
    columns = ([getattr(routed, field.name) for routed in found] for field in fields(Routed))
    return Routed(*map(torch.cat, columns)) if found else nothing(queries_BD)


def route_cpu(
    queries_BD: torch.Tensor,
    keys_PD: torch.Tensor,
    key_rows_N: torch.Tensor,
    owners_N: torch.Tensor,
    sequences_E: torch.Tensor,
    *,
    beta: float,
    gamma: float,
    steps: int,
    epsilon: float,
    threshold: float,
    directions: bool = True,
) -> Routed:
    """Route queries as ``core.match.route_tensors`` does, with the keys read where they lie.

    Rows are independent: a row's result does not depend on the others, nor on how many there are. A query that
    is not a number matches nothing.

    Parameters
    ----------
    queries_BD
        [B, D] float32, unrefined.
    keys_PD
        [P, D] float32, the paged buffer. Rows that `key_rows_N` does not name are never read.
    key_rows_N
        [N] int64, the revision's rows of the buffer.
    owners_N
        [N] int64, the entry of each key, in [0, E).
    sequences_E
        [E] int64, distinct edit sequence numbers >= 0.
    beta, gamma, steps, epsilon
        Refinement as in ``core.refine.refine``.
    threshold
        A row matches when its best score is greater.
    directions
        Whether queries and keys are unit vectors. False (GRACE's, of any length): `steps` must be 0.
    """
    routed, _ = route_counted(
        queries_BD, keys_PD, key_rows_N, owners_N, sequences_E,
        beta=beta, gamma=gamma, steps=steps, epsilon=epsilon, threshold=threshold, directions=directions,
    )  # fmt: skip
    return routed


def route_counted(
    queries_BD: torch.Tensor,
    keys_PD: torch.Tensor,
    key_rows_N: torch.Tensor,
    owners_N: torch.Tensor,
    sequences_E: torch.Tensor,
    *,
    beta: float,
    gamma: float,
    steps: int,
    epsilon: float,
    threshold: float,
    directions: bool = True,
) -> tuple[Routed, Shares]:
    """Route as `route_cpu` does, and tell what was read again."""
    rows = queries_BD.shape[0]
    if 0 in (rows, key_rows_N.shape[0]):
        return nothing(queries_BD), Shares(torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.bool))
    book = Book(keys_PD, key_rows_N, owners_N, sequences_E)
    queries = queries_BD.contiguous().numpy()
    number_B = np.isfinite(queries).all(axis=1)
    if not number_B.all():
        queries = np.where(number_B[:, None], queries, np.float32(0.0))
    if rows % 2:
        # The loops take queries in pairs.
        queries = np.concatenate((queries, queries[-1:]))
    if steps == 0 or not directions:
        # Exact as they are, of any length.
        found, again_B = [_best(scores, book) for scores in book.scores(queries)[:rows]], [0] * rows
    else:
        found, again_B = _refined(queries, rows, book, beta=beta, gamma=gamma, steps=steps, epsilon=epsilon)
    found = [one if number else _NOTHING for one, number in zip(found, number_B, strict=True)]
    shares = torch.tensor(again_B)
    return _routed(found, threshold), Shares(shares, shares > FIRST)


def nothing(queries_BD: torch.Tensor) -> Routed:
    """Return the decisions of a batch with which nothing competed."""
    none_B = torch.full_like(queries_BD[:, 0], NO_ENTRY, dtype=torch.int64)
    low_B = torch.full_like(queries_BD[:, 0], -torch.inf)
    return Routed(none_B, none_B, low_B, none_B, low_B)


def _routed(found: Sequence[_Found], threshold: float) -> Routed:
    best_B, second_B = np.array([(it.best, it.second) for it in found], np.int64).T.copy()
    score_B, second_score_B = np.array([(it.score, it.second_score) for it in found], np.float32).T.copy()
    entry_B = np.where(score_B > np.float32(threshold), best_B, NO_ENTRY)
    return Routed(*map(torch.from_numpy, (entry_B, best_B, score_B, second_B, second_score_B)))


def _refined(
    queries: Array, count: int, book: Book, *, beta: float, gamma: float, steps: int, epsilon: float
) -> tuple[list[_Found], list[int]]:
    """Return the best two entries of `count` queries after refinement, and how many keys were read again for each."""
    refined, chords, moving = queries, np.empty(count, np.float32), np.ones(count, np.bool_)
    scores: Array = np.empty(0)
    for _ in range(steps):
        queries, refined = refined, np.empty_like(queries)
        scores, pulled = book.sweep(queries, count, beta)
        refine_rows(queries, pulled, np.float32(gamma), np.float32(epsilon), moving, refined, chords)
    return _decided(refined, scores, [reach_of(chord) for chord in chords.tolist()], book)


def _decided(refined: Array, scores_BN: Array, reaches: Sequence[float], book: Book) -> tuple[list[_Found], list[int]]:
    """Decide queries, each `reaches` away from the one whose first scores these are."""
    count = scores_BN.shape[1]
    found, again, left = list[_Found](), list[int](), list[int]()
    twice = refined.repeat(2, axis=0)
    for row, scores in enumerate(scores_BN):
        pair, reach = twice[2 * row : 2 * row + 2], reaches[row]
        first = np.empty(min(FIRST, count), np.int64)
        lowest_first = highest_keys(scores, first)
        found.append(_best(book.scores(pair, first)[0], book, first))
        again.append(len(first))
        if len(first) == count:
            continue
        cut = cut_for(_needed(scores, found[row], reach, book), reach)
        if lowest_first < cut:
            continue
        open_keys = (scores >= cut).nonzero()[0]
        if len(open_keys) * _WHOLE > count:
            again[row] += count
            left.append(row)
        else:
            again[row] += len(open_keys)
            found[row] = _best(book.scores(pair, open_keys)[0], book, open_keys)
    if left:
        rows = [*left, left[-1]] if len(left) % 2 else left
        for row, scores in zip(left, book.scores(refined[rows]), strict=False):
            found[row] = _best(scores, book)
    return found, again


def _best(scores_k: Array, book: Book, places_k: Array | None = None) -> _Found:
    """Return the best two entries of some keys with these scores, or of all keys."""
    return _Found(*best_two(scores_k, book.places if places_k is None else places_k, book.owners, book.sequences))


def _needed(scores_N: Array, found: _Found, reach: float, book: Book) -> float:
    """Return a score that keys of two entries have at least; where one entry owns all keys, the best key's."""
    if found.second != NO_ENTRY:
        return found.second_score
    others = scores_N[book.owners != found.best]
    return lowest(float(others.max()), reach) if len(others) else found.score
