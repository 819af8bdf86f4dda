"""One reading of a revision's keys on a CPU: scores and softmax sums, each row's the same to the bit in every batch.

Shapes: B queries, N keys of the revision, P rows of the key buffer, D width, E entries, n keys of a block, G rows of
a group.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import torch

LARGE: Final = 1 << 22
"""Numbers in a block of keys that is only scored: scattered rows are copied 16 MiB at a time."""
_BLOCK: Final = 1 << 18
"""Numbers in a block of keys for each thread: scored, then added up while they are in its cache."""
_GENTLE: Final = 40.0
"""Largest beta at which ``exp(beta (s - 1))`` keeps its precision in fp32 for any cosine."""
_ALIGNED: Final = 16
"""Numbers in a cache line: a product's rounding may depend on where in one its rows begin."""
_GROUPS: Final = (8, 4, 2)
"""Queries that may be multiplied at once."""


class Book:
    """The keys of one revision, where they lie."""

    def __init__(
        self, keys_PD: torch.Tensor, rows_N: torch.Tensor, owners_N: torch.Tensor, sequences_E: torch.Tensor
    ) -> None:
        self.keys_PD = keys_PD
        self.rows_N = rows_N
        self.owners_N = owners_N
        self.sequences_E = sequences_E
        self.block = max(_ALIGNED, _BLOCK * torch.get_num_threads() // keys_PD.shape[1] // _ALIGNED * _ALIGNED)
        self._one_run = _is_run(rows_N)

    def blocks(self, size: int, *, halve: bool = False) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the keys [n, D] in blocks of one size, then the rest.

        With `halve` the rest comes in halves and quarters of a block: few shapes, whatever N is.
        """
        start, count, first = int(self.rows_N[0]), len(self.rows_N), 0
        while first < count:
            while halve and size > count - first and size >= 2 * _ALIGNED:
                size = size // (2 * _ALIGNED) * _ALIGNED
            where = slice(first, min(first + size, count))
            first = where.stop
            if self._one_run:
                yield where, self.keys_PD[start + where.start : start + where.stop]
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
        size = max(1, LARGE // queries_BD.shape[1])
        if len(queries_BD) == 1:
            return torch.cat([torch.mv(block, queries_BD[0]) for _, block in self.blocks(size)])[None]
        return torch.cat([queries_BD @ block.T for _, block in self.blocks(size)], dim=1)


def _is_run(rows: torch.Tensor) -> bool:
    return int(rows[-1]) - int(rows[0]) == len(rows) - 1 and bool((rows.diff() == 1).all())


def one_pass(queries_BD: torch.Tensor, book: Book, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores [B, N] and ``pK`` [B, D] but for a factor, reading the keys once."""
    count, width = queries_BD.shape
    padded, pulled = (_aligned(count + count % 2, width) for _ in range(2))
    padded[:count] = queries_BD
    scores = queries_BD.new_empty(len(padded), len(book.rows_N))
    top = queries_BD.new_full((len(padded), 1), 1.0 if beta <= _GENTLE else -torch.inf)
    for where, block in book.blocks(book.block, halve=True):
        groups = _groups(len(padded), group_sizes(len(block), width))
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


def group_sizes(keys: int, width: int) -> tuple[int, ...]:
    """Return how many rows may be multiplied at once with blocks of this shape, largest first.

    A row's product must be the same to the bit in a group of any of these sizes, at any place in it and beside any
    others. No library promises that, so it is tried, once for each shape and number of threads; nothing is returned
    where it fails.
    """
    return _tried_sizes(keys, width, torch.get_num_threads())


@cache
def _tried_sizes(keys: int, width: int, _threads: int) -> tuple[int, ...]:
    if keys % _ALIGNED:
        return ()
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(keys, width, generator=generator)
    rows = _aligned(max(_GROUPS), width).copy_(torch.randn(max(_GROUPS), width, generator=generator))
    weights = torch.rand(max(_GROUPS), keys, generator=generator)
    scores, sums = _in_groups(rows, weights, block, min(_GROUPS))

    def same(size: int, order: Sequence[int]) -> bool:
        again = _in_groups(rows[order], weights[order], block, size)
        return torch.equal(again[0], scores[order]) and torch.equal(again[1], sums[order])

    orders = [[(row + turn) % len(rows) for row in range(len(rows))] for turn in (0, 1, 3)]
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
