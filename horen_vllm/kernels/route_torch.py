"""Route by torch, for CPUs: the keys are read once, and again only those that may be among the best two.

What decides (refined queries, the scores that are compared and reported) is computed for each row by itself, in an
order that the keys alone fix. First scores only choose which keys are read again, so they may come from products of
whole batches. The derivation is in ``README.md``.
Shapes: B queries, N keys of the revision, P rows of the key buffer, D width, E entries, n keys of a block.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch

from horen_vllm.core.match import NO_ENTRY, Routed, decide_tensors
from horen_vllm.core.refine import unit
from horen_vllm.kernels.bounds import cut_for, lowest, reach_of

FIRST: Final = 16
"""Keys that are read again at once, the best by first score."""
_BLOCK: Final = 1 << 19
"""Numbers in a block of keys for each thread: scored, then added up while they are in its cache."""
_GENTLE: Final = 40.0
"""Largest beta at which ``exp(beta (s - 1))`` keeps its precision in fp32 for any cosine."""
_LARGE: Final = 1 << 22
"""Numbers in a block of keys that is only scored: scattered rows are copied 16 MiB at a time."""
_ALIGNED: Final = 16
"""Numbers in a cache line: a product's rounding may depend on where in one its rows begin."""
_GROUPS: Final = (8, 4, 2)
"""Queries that may be multiplied at once."""
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


class _Book:
    """The keys of one revision, where they lie."""

    def __init__(
        self, keys_PD: torch.Tensor, rows_N: torch.Tensor, owners_N: torch.Tensor, sequences_E: torch.Tensor
    ) -> None:
        self.keys_PD = keys_PD
        self.rows_N = rows_N
        self.owners_N = owners_N
        self.sequences_E = sequences_E
        # A multiple of `_ALIGNED`, so that every row of weights begins alike.
        self.block = max(_ALIGNED, _BLOCK * torch.get_num_threads() // keys_PD.shape[1] // _ALIGNED * _ALIGNED)
        self._one_run = _is_run(rows_N)

    def blocks(self, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the keys [n, D] in blocks of one size; the last one may be smaller."""
        start, count = int(self.rows_N[0]), len(self.rows_N)
        for first in range(0, count, size):
            where = slice(first, min(first + size, count))
            if self._one_run:
                yield where, self.keys_PD[start + first : start + where.stop]
            else:
                yield where, self.read(self.rows_N[where])

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Return some rows [n, D], copied only where they are scattered."""
        if _is_run(rows):
            start = int(rows[0])
            return self.keys_PD[start : start + len(rows)]
        return self.keys_PD.index_select(0, rows)

    def scores(self, queries_BD: torch.Tensor) -> torch.Tensor:
        """Return scores [B, N] that are right but for rounding, which may differ from batch to batch."""
        size = max(1, _LARGE // queries_BD.shape[1])
        if len(queries_BD) == 1:
            return torch.cat([torch.mv(block, queries_BD[0]) for _, block in self.blocks(size)])[None]
        return torch.cat([queries_BD @ block.T for _, block in self.blocks(size)], dim=1)


def _is_run(rows: torch.Tensor) -> bool:
    return int(rows[-1]) - int(rows[0]) == len(rows) - 1 and bool((rows.diff() == 1).all())


def route_torch(
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
    """Route as `route_torch` does, and tell what was read again."""
    rows = queries_BD.shape[0]
    if 0 in (rows, key_rows_N.shape[0]):
        return nothing(queries_BD), Shares(torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.bool))
    book = _Book(keys_PD, key_rows_N, owners_N, sequences_E)
    if not directions:
        return _decided_by_all(queries_BD, book, threshold)
    refined_BD = queries_BD
    moving_B = torch.ones_like(queries_BD[:, 0], dtype=torch.bool)
    scores_BN = book.scores(queries_BD) if steps == 0 else queries_BD.new_empty(0)
    for _ in range(steps):
        queries_BD = refined_BD
        scores_BN, pulled_BD = _one_pass(queries_BD, book, beta)
        target_BD = unit(pulled_BD)
        moving_B = moving_B & ((target_BD - queries_BD).norm(dim=-1) > epsilon)
        stepped_BD = unit((1 - gamma) * queries_BD + gamma * target_BD)
        refined_BD = torch.where(moving_B[:, None], stepped_BD, queries_BD)
    chords = (refined_BD - queries_BD).norm(dim=-1).tolist()
    return _decided(refined_BD, scores_BN, chords, book, threshold)


def nothing(queries_BD: torch.Tensor) -> Routed:
    """Return the decisions of a batch with which nothing competed."""
    none_B = torch.full_like(queries_BD[:, 0], NO_ENTRY, dtype=torch.int64)
    low_B = torch.full_like(queries_BD[:, 0], -torch.inf)
    return Routed(none_B, none_B, low_B, none_B, low_B)


def _one_pass(queries_BD: torch.Tensor, book: _Book, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores [B, N] and ``pK`` [B, D] but for a factor, reading the keys once."""
    count, width = queries_BD.shape
    padded, pulled = (_aligned(count + count % 2, width) for _ in range(2))
    padded[:count] = queries_BD
    scores = queries_BD.new_empty(len(padded), len(book.rows_N))
    top = queries_BD.new_full((len(padded), 1), 1.0 if beta <= _GENTLE else -torch.inf)
    sizes = group_sizes(book.block, width)
    for where, block in book.blocks(book.block):
        groups = _groups(len(padded), sizes if len(block) == book.block else ())
        part = scores[:, where]
        for group in groups:
            part[group] = _products(padded[group], block)
        if beta > _GENTLE:
            highest = torch.maximum(top, part.amax(dim=1, keepdim=True))
            # Multiplies the rows whose maximum stayed by exactly 1.
            pulled *= torch.exp(beta * (top - highest))
            top = highest
        weights = (part - top).mul_(beta).exp_()
        for group in groups:
            _add_weighted(pulled[group], weights[group], block)
    return scores[:count], pulled[:count]


def _aligned(rows: int, width: int) -> torch.Tensor:
    """Return zeros [rows, width] of which every row begins at the start of a cache line."""
    return torch.zeros(rows, -(-width // _ALIGNED) * _ALIGNED)[:, :width]


def _groups(count: int, sizes: Sequence[int]) -> list[slice]:
    """Cut `count` rows into groups, the largest first."""
    groups, first = [], 0
    for size in (*sizes, 1):
        while count - first >= size:
            groups.append(slice(first, first + size))
            first += size
    return groups


def _products(rows_GD: torch.Tensor, block_nD: torch.Tensor) -> torch.Tensor:
    return torch.mv(block_nD, rows_GD[0])[None] if len(rows_GD) == 1 else rows_GD @ block_nD.T


def _add_weighted(sums_GD: torch.Tensor, weights_Gn: torch.Tensor, block_nD: torch.Tensor) -> None:
    if len(sums_GD) == 1:
        sums_GD[0].addmv_(block_nD.T, weights_Gn[0].clone())
    else:
        sums_GD.addmm_(weights_Gn, block_nD)


@cache
def group_sizes(keys: int, width: int) -> tuple[int, ...]:
    """Return how many rows may be multiplied at once with blocks of this shape, largest first.

    A row's product must be the same to the bit in a group of any of these sizes, at any place in it and beside any
    others. No library promises that, so it is tried here, once for each shape; nothing is returned where it fails.
    """
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(keys, width, generator=generator)
    rows = _aligned(max(_GROUPS), width).copy_(torch.randn(max(_GROUPS), width, generator=generator))
    weights = torch.rand(max(_GROUPS), keys, generator=generator)
    scores, sums = _in_groups(rows, weights, block, min(_GROUPS))

    def same(size: int, order: Sequence[int]) -> bool:
        again = _in_groups(rows[order], weights[order], block, size)
        return torch.equal(again[0], scores[order]) and torch.equal(again[1], sums[order])

    orders = [[(row + turn) % len(rows) for row in range(len(rows))] for turn in range(len(rows))]
    orders.append([0] * len(rows))
    even = [size for size in _GROUPS if all(same(size, order) for order in orders)]
    return tuple(even) if min(_GROUPS) in even else ()


def _in_groups(
    rows: torch.Tensor, weights: torch.Tensor, block: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    sums = _aligned(*rows.shape)
    for part, share in zip(torch.split(sums, size), torch.split(weights, size), strict=True):
        _add_weighted(part, share, block)
    return torch.cat([_products(part, block) for part in torch.split(rows, size)]), sums


def _decided(
    refined_BD: torch.Tensor, scores_BN: torch.Tensor, chords: Sequence[float], book: _Book, threshold: float
) -> tuple[Routed, Shares]:
    rows, keys = scores_BN.shape
    found: dict[int, _Found] = {}
    again, left = [0] * rows, list[int]()
    for row, query in enumerate(refined_BD):
        if not bool(query.isfinite().all()):
            found[row] = _Found()
            continue
        result, candidates = _search(query, scores_BN[row], None, reach_of(chords[row]), book)
        again[row] = min(FIRST, keys)
        if result is not None:
            found[row] = result
        elif len(candidates) * _WHOLE > keys:
            left.append(row)
            again[row] += keys
        else:
            scores = torch.mv(book.read(book.rows_N[candidates]), query)
            found[row] = _settled(query, scores, candidates, book)
            again[row] += len(candidates)
    if left:
        for row, scores in zip(left, book.scores(refined_BD[left]), strict=True):
            found[row] = _settled(refined_BD[row], scores, None, book)
    again_B = torch.tensor(again)
    return _as_routed([found[row] for row in range(rows)], threshold), Shares(again_B, again_B > FIRST)


@dataclass(frozen=True, slots=True)
class _Found:
    """The best two entries of a row."""

    best: int = NO_ENTRY
    score: float = -math.inf
    second: int = NO_ENTRY
    second_score: float = -math.inf


def _as_routed(found: Sequence[_Found], threshold: float) -> Routed:
    best, second = torch.tensor([row.best for row in found]), torch.tensor([row.second for row in found])
    score = torch.tensor([row.score for row in found], dtype=torch.float32)
    second_score = torch.tensor([row.second_score for row in found], dtype=torch.float32)
    return Routed(torch.where(score > threshold, best, NO_ENTRY), best, score, second, second_score)


def _settled(query_D: torch.Tensor, scores_n: torch.Tensor, keys: torch.Tensor | None, book: _Book) -> _Found:
    """Return the best two entries of a query whose own scores these are, but for rounding."""
    found, candidates = _search(query_D, scores_n, keys, 0.0, book)
    return found or _ranked(query_D, candidates, book)


def _search(
    query_D: torch.Tensor, scores_n: torch.Tensor, keys: torch.Tensor | None, reach: float, book: _Book
) -> tuple[_Found | None, torch.Tensor]:
    """Read the first few keys again; return the best two entries if they are sure, and the keys that may be theirs.

    Parameters
    ----------
    query_D
        The refined query.
    scores_n
        First scores of `keys`, those of a query that is `reach` away from it.
    keys
        Their numbers in the revision; None for all.
    """
    first = scores_n.topk(min(FIRST, len(scores_n))).indices
    found = _ranked(query_D, first if keys is None else keys[first], book)
    if len(first) == len(scores_n):
        return found, first
    needed = found.second_score
    if found.second == NO_ENTRY:
        owners = book.owners_N if keys is None else book.owners_N[keys]
        others = float(scores_n.masked_fill(owners == found.best, -torch.inf).max())
        needed = lowest(others, reach) if others > -torch.inf else found.score
    candidates = (scores_n >= cut_for(needed, reach)).nonzero()[:, 0]
    sure = len(candidates) <= len(first)
    return found if sure else None, candidates if keys is None else keys[candidates]


def _ranked(query_D: torch.Tensor, keys: torch.Tensor, book: _Book) -> _Found:
    """Return the best two entries among some keys."""
    parts = keys.tensor_split(-(-len(keys) * len(query_D) // _LARGE))
    # Not a matrix product: equal keys have to score equal wherever they stand.
    score = torch.cat([(book.read(book.rows_N[part]) * query_D).sum(dim=-1) for part in parts])
    names, place = torch.unique(book.owners_N[keys], return_inverse=True)
    scores_1E = score.new_full((1, len(names)), -torch.inf)
    scores_1E.scatter_reduce_(1, place[None], score[None], reduce="amax")
    found = decide_tensors(scores_1E, book.sequences_E[names], -torch.inf)
    second = int(found.runner_up)
    return _Found(
        int(names[found.best[0]]),
        float(found.score),
        NO_ENTRY if second == NO_ENTRY else int(names[second]),
        float(found.runner_up_score),
    )


def _decided_by_all(queries_BD: torch.Tensor, book: _Book, threshold: float) -> tuple[Routed, Shares]:
    """Decide by the scores of all keys, of any length: how far a first score may be off is not known then."""
    copies = [query.clone() for query in queries_BD]
    rows = [torch.cat([torch.mv(block, query) for _, block in book.blocks(book.block)]) for query in copies]
    scores_BN = torch.stack(rows)
    scores_BN = scores_BN.masked_fill(scores_BN.isnan(), -torch.inf)
    scores_BE = scores_BN.new_full((len(rows), len(book.sequences_E)), -torch.inf)
    scores_BE.scatter_reduce_(1, book.owners_N.expand_as(scores_BN), scores_BN, reduce="amax")
    routed = decide_tensors(scores_BE, book.sequences_E, threshold)
    best = torch.where(torch.isneginf(routed.score), NO_ENTRY, routed.best)
    again = torch.zeros(len(rows), dtype=torch.int64)
    routed = Routed(routed.entry, best, routed.score, routed.runner_up, routed.runner_up_score)
    return routed, Shares(again, again > 0)
