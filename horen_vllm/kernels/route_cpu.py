"""Route on CPUs: the keys are read once, and again only those that may be among the best two.

What decides (refined queries, the scores that are compared and reported) is computed for each row by itself, in an
order that the keys alone fix. First scores of a sweep only choose which keys are read again. The derivation is in
``README.md``.
Shapes: B queries, N keys of the revision, P rows of the key buffer, D width, E entries.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np
import torch

from horen_vllm.core.match import NO_ENTRY, Routed
from horen_vllm.kernels.bounds import cut_for, least_agreement, lowest, reach_of, settles, widest_reach
from horen_vllm.kernels.cpu_book import Book
from horen_vllm.kernels.cpu_compile import Array
from horen_vllm.kernels.cpu_rows import best_two, highest_keys, mean_score, refine_rows
from horen_vllm.kernels.groups import RouteGroup, RouteRule

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


class _Found:
    """The best two entries of `rows` queries and their scores; `NO_ENTRY` and minus infinity for none.

    Attributes
    ----------
    entries, scores
        [2, B] int64 and float32.
    """

    __slots__ = ("entries", "scores")

    def __init__(self, rows: int) -> None:
        self.entries = np.full((2, rows), NO_ENTRY, np.int64)
        self.scores = np.full((2, rows), -np.inf, np.float32)

    def put(self, row: int, scores_k: Array, book: Book, places_k: Array | None = None) -> None:
        """Take the best two of some keys with these scores, or of all keys."""
        places_k = book.places if places_k is None else places_k
        self.entries[0, row], self.scores[0, row], self.entries[1, row], self.scores[1, row] = best_two(
            scores_k, places_k, book.owners, book.sequences
        )


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
    sure_above: float | None = None,
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
    sure_above
        None: scores are those of refined queries. Else, with one step, rows whose decision is certain by the scores of
        unrefined queries are decided by these, and have them and the best two entries by them; certain is a match
        above `sure_above`, the highest bound that any entry has (at least `threshold`), and no match at `threshold`.
        `entry` is the same as with None.
    """
    if 0 in (queries_BD.shape[0], key_rows_N.shape[0]):
        return nothing(queries_BD)
    book = Book(keys_PD, key_rows_N, owners_N, sequences_E)
    rule = RouteRule(beta, gamma, steps, epsilon, threshold, directions, sure_above)
    return _route(queries_BD, book, rule)[0]


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
    sure_above: float | None = None,
) -> tuple[Routed, Shares]:
    """Route one query or more through one key or more as `route_cpu` does, and tell what was read again."""
    book = Book(keys_PD, key_rows_N, owners_N, sequences_E)
    rule = RouteRule(beta, gamma, steps, epsilon, threshold, sure_above=sure_above)
    routed, again_B = _route(queries_BD, book, rule)
    shares = torch.tensor(again_B)
    return routed, Shares(shares, shares > FIRST)


def nothing(queries_BD: torch.Tensor) -> Routed:
    """Return the decisions of a batch with which nothing competed."""
    none_B = torch.full_like(queries_BD[:, 0], NO_ENTRY, dtype=torch.int64)
    low_B = torch.full_like(queries_BD[:, 0], -torch.inf)
    return Routed(none_B, none_B, low_B, none_B, low_B)


def _route(queries_BD: torch.Tensor, book: Book, rule: RouteRule) -> tuple[Routed, list[int]]:
    """Route queries, and return how many keys were read again for each."""
    queries = queries_BD.contiguous().numpy()
    number_B = np.isfinite(queries).all(axis=1)
    numbers = bool(number_B.all())
    if not numbers:
        queries = np.where(number_B[:, None], queries, np.float32(0.0))
    found, again_B = _Found(len(queries)), [0] * len(queries)
    if rule.steps == 0 or not rule.directions:
        # Exact as they are, of any length.
        for row, scores in enumerate(book.scores(queries)):
            found.put(row, scores, book)
    elif rule.settles:
        again_B = _settled(queries, book, rule, found)
    else:
        again_B = _refined(queries, book, rule, found)
    if not numbers:
        found.entries[:, ~number_B], found.scores[:, ~number_B] = NO_ENTRY, -np.inf
    return _routed(found, rule.threshold), again_B


def _routed(found: _Found, threshold: float) -> Routed:
    (best_B, second_B), (score_B, second_score_B) = found.entries, found.scores
    entry_B = np.where(score_B > np.float32(threshold), best_B, NO_ENTRY)
    return Routed(*map(torch.from_numpy, (entry_B, best_B, score_B, second_B, second_score_B)))


def _settled(queries: Array, book: Book, rule: RouteRule, found: _Found) -> list[int]:
    """Decide by first scores where they are certain, else after refinement; return as `_refined`."""
    again, left = [0] * len(queries), list[int]()
    for row, scores in enumerate(book.scores(queries)):
        found.put(row, scores, book)
        best, second = found.scores[:, row].tolist()
        if not _certain(scores, best, second, rule):
            left.append(row)
    if left:
        refined = _Found(len(left))
        read = _refined(queries[left], book, rule, refined)
        found.entries[:, left], found.scores[:, left] = refined.entries, refined.scores
        for row, count in zip(left, read, strict=True):
            again[row] = len(book.places) + count
    return again


def _certain(scores_N: Array, best: float, second: float, rule: RouteRule) -> bool:
    above = -np.inf if rule.sure_above is None else rule.sure_above
    if settles(best, second, rule.threshold, above, widest_reach(0.0, rule.gamma)):
        return True
    agreement = least_agreement(float(mean_score(scores_N, np.float32(rule.beta))), best, rule.beta)
    return settles(best, second, rule.threshold, above, widest_reach(agreement, rule.gamma))


def _refined(queries: Array, book: Book, rule: RouteRule, found: _Found) -> list[int]:
    """Find the best two entries of each query after refinement, and return how many keys were read again for each."""
    refined = queries
    chords, moving = np.empty(len(queries), np.float32), np.ones(len(queries), np.bool_)
    gamma, epsilon, scores = np.float32(rule.gamma), np.float32(rule.epsilon), np.empty(0, np.float32)
    for _ in range(rule.steps):
        queries, refined = refined, np.empty_like(queries)
        scores, pulled = book.sweep(queries, rule.beta)
        refine_rows(queries, pulled, gamma, epsilon, moving, refined, chords)
    return _decided(refined, scores, [reach_of(chord) for chord in chords.tolist()], book, found)


def _decided(refined: Array, scores_BN: Array, reaches: Sequence[float], book: Book, found: _Found) -> list[int]:
    """Decide queries, each `reaches` away from the one whose first scores these are."""
    count = scores_BN.shape[1]
    again, left = list[int](), list[int]()
    for row, scores in enumerate(scores_BN):
        query, reach = refined[row : row + 1], reaches[row]
        first = np.empty(min(FIRST, count), np.int64)
        lowest_first = highest_keys(scores, first)
        found.put(row, book.scores(query, first)[0], book, first)
        again.append(len(first))
        if len(first) == count:
            continue
        cut = cut_for(_needed(scores, found, row, reach, book), reach)
        if lowest_first < cut:
            continue
        open_keys = (scores >= cut).nonzero()[0]
        if len(open_keys) * _WHOLE > count:
            again[row] += count
            left.append(row)
        else:
            again[row] += len(open_keys)
            found.put(row, book.scores(query, open_keys)[0], book, open_keys)
    if left:
        for row, scores in zip(left, book.scores(refined[left]), strict=True):
            found.put(row, scores, book)
    return again


def _needed(scores_N: Array, found: _Found, row: int, reach: float, book: Book) -> float:
    """Return a score that keys of two entries have at least; where one entry owns all keys, the best key's."""
    best, second = found.entries[:, row].tolist()
    score, second_score = found.scores[:, row].tolist()
    if second != NO_ENTRY:
        return float(second_score)
    others = scores_N[book.owners != best]
    return lowest(float(others.max()), reach) if len(others) else float(score)
