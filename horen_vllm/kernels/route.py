"""Route: refine unit queries and find the best two entries of a revision, over paged keys (sections 2.2 and 2.3).

Queries of many revisions go through one sequence of launches. Every pass splits the keys of a query into parts whose
size depends on nothing but their number and width, so that one query fills a GPU and a row's result is the same
whatever else is in the batch. The derivation is in ``README.md``.
Shapes: B queries, N keys of a revision, P rows of the key buffer, D width, E entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from horen_vllm.core.match import NO_ENTRY, Routed
from horen_vllm.kernels.groups import BLOCK_N, Column, RouteGroup, RouteRule, RouteTable
from horen_vllm.kernels.route_cpu import nothing
from horen_vllm.kernels.route_kernels import (
    attractor_kernel,
    merge_kernel,
    pull_kernel,
    rank_kernel,
    score_kernel,
    step_kernel,
)
from horen_vllm.kernels.settle_kernels import settle_kernel, weigh_kernel
from horen_vllm.kernels.sweep_kernels import cut_kernel, matrix_kernel, shortlist_kernel, sweep_kernel

SCORE_BLOCK_D = 512
PULL_BLOCK_D = 128
STEP_BLOCK_D = 2048
MERGE_BLOCK = 1024
ATTRACTOR_BLOCK_C = 32
MATRIX_BLOCK_B, MATRIX_BLOCK_N, MATRIX_BLOCK_D = 16, 64, 32
PART = tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16
"""What the matrix units multiply: the interpreter cannot multiply bfloat16, of which float32 holds every number."""
WIDEST_SWEEP = 16384
"""Keys up to this width stay in registers, whole, while they are scored and added up."""


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys of a batch, where they lie: buffer [P, D], and what the table says of each group."""

    buffer: torch.Tensor
    table: RouteTable

    @property
    def width(self) -> int:
        return self.buffer.shape[1]

    @property
    def stride(self) -> int:
        return self.buffer.stride(0)

    def new(self, column: Column, groups: int, *more: int) -> torch.Tensor:
        """Return room for something that each item of a column has, float32."""
        return self.buffer.new_empty(self.table.total(column, groups), *more)


@dataclass(frozen=True, slots=True)
class _First:
    """Scores of unrefined queries, the best of each part and block by them, and what they leave open.

    Attributes
    ----------
    scores, block_max
        Of each query, float32: [N] and [blocks].
    shortlist
        Scores [parts, 2] float32 and owners [parts, 2] int64.
    open
        [B] int32, 0 where a query's decision is written already.
    """

    scores: torch.Tensor
    block_max: torch.Tensor
    shortlist: tuple[torch.Tensor, torch.Tensor]
    open: torch.Tensor


def route_mixed_triton(queries_BD: torch.Tensor, keys_PD: torch.Tensor, groups: Sequence[RouteGroup]) -> Routed:
    """Launch the kernels for queries of several groups; same contract as ``dispatch.route_mixed``."""
    return _route(queries_BD, keys_PD, groups)


def route_triton(
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
    matrix: bool = False,
) -> Routed:
    """Launch the kernels for queries of one group; same contract as `route_cpu`.

    With `matrix` (and without refinement) first scores come from the matrix units, from products of bfloat16 parts;
    those only choose the keys that are scored in float32, so results are the same to the bit.
    """
    rule = RouteRule(beta, gamma, steps, epsilon, threshold, directions, sure_above)
    group = RouteGroup(queries_BD.shape[0], key_rows_N, owners_N, sequences_E, rule)
    return _route(queries_BD, keys_PD, [group], matrix=matrix and directions and steps == 0)


def sweep_shape(width: int) -> tuple[int, int, int]:
    """Return BLOCK_D, BLOCK_N and warps of the sweep for keys of this width, at most `WIDEST_SWEEP`."""
    block = max(16, triton.next_power_of_2(width))
    return block, max(1, min(8, 8192 // block)), 4 if block <= 4096 else block // 1024


def _route(
    queries_BD: torch.Tensor, keys_PD: torch.Tensor, groups: Sequence[RouteGroup], *, matrix: bool = False
) -> Routed:
    if all(group.is_empty for group in groups):
        return nothing(queries_BD)
    routed = _unwritten(queries_BD, some_empty=any(group.is_empty for group in groups))
    queries_BD = queries_BD.contiguous()
    # One after the other: neither changes what the other's kernels do.
    for settles in (True, False):
        if any(not group.is_empty and group.rule.settles == settles for group in groups):
            _launch(queries_BD, _keys(keys_PD, groups, settles=settles), routed, settles=settles, matrix=matrix)
    return routed


def _keys(keys_PD: torch.Tensor, groups: Sequence[RouteGroup], *, settles: bool = False) -> _Keys:
    table = RouteTable(groups, keys_PD.shape[1], settles=settles, part=MERGE_BLOCK, device=keys_PD.device)
    return _Keys(keys_PD, table)


def _launch(queries_BD: torch.Tensor, keys: _Keys, routed: Routed, *, settles: bool, matrix: bool) -> None:
    """Decide the queries of a table's groups."""
    refined = keys.table.refined(0)
    if matrix:
        scores = _matrix_scores(queries_BD, keys)
        shortlist = _shortlist(scores, keys, len(keys.table))
        cut_B = _cut(shortlist, torch.zeros_like(queries_BD[:, 0]), keys, len(keys.table))
        _decide(queries_BD, keys, routed, len(keys.table), scores, cut_B)
    elif refined:
        first = _settle(queries_BD, keys, routed) if settles else None
        queries_BD, scores, chord_B = _refine(queries_BD, keys, first)
        shortlist = _shortlist(scores, keys, refined) if first is None else first.shortlist
        open_B = None if first is None else first.open
        _decide(queries_BD, keys, routed, refined, scores, _cut(shortlist, chord_B, keys, refined, open_B), open_B)
    else:
        _decide(queries_BD, keys, routed)


def _unwritten(queries_BD: torch.Tensor, *, some_empty: bool) -> Routed:
    """Return room for decisions; rows of a group without keys are never written."""
    # Each tensor of its own, for the kernels' alignment.
    if some_empty:
        entry, best, second = (torch.full_like(queries_BD[:, 0], NO_ENTRY, dtype=torch.int64) for _ in range(3))
        score, second_score = (torch.full_like(queries_BD[:, 0], -torch.inf) for _ in range(2))
    else:
        entry, best, second = (torch.empty_like(queries_BD[:, 0], dtype=torch.int64) for _ in range(3))
        score, second_score = (torch.empty_like(queries_BD[:, 0]) for _ in range(2))
    return Routed(entry, best, score, second, second_score)


def _settle(queries_BD: torch.Tensor, keys: _Keys, routed: Routed) -> _First:
    """Decide what is certain without refinement; all groups of the table take one step."""
    table, groups = keys.table, len(keys.table)
    scores, block_max = keys.new(Column.SCORE, groups), keys.new(Column.BLOCK, groups)
    weighed, open_B = keys.new(Column.PART, groups, 3), torch.zeros_like(queries_BD[:, 0], dtype=torch.int32)
    _score(queries_BD, keys, scores, block_max, groups)
    best_score, best_owner = shortlist = _shortlist(scores, keys, groups)
    # fmt: off
    weigh_kernel[(table.total(Column.PART, groups),)](
        scores, table.numbers, table.rules, weighed, groups, BLOCK=MERGE_BLOCK,
    )
    settle_kernel[(table.total(Column.ROW, groups),)](
        best_score, best_owner, weighed, table.sequences, table.numbers, table.rules, open_B,
        routed.entry, routed.best, routed.score, routed.runner_up, routed.runner_up_score, groups, BLOCK=MERGE_BLOCK,
    )
    # fmt: on
    return _First(scores, block_max, shortlist, open_B)


def _refine(
    queries_BD: torch.Tensor, keys: _Keys, first: _First | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the refined queries, and how those before the last step scored and how far it led [B].

    Of queries that are settled nothing is written.
    """
    table, width, refined = keys.table, keys.width, keys.table.refined(0)
    queries_BD = queries_BD.clone()
    scores = keys.new(Column.SCORE, refined) if first is None else first.scores
    chunk_max = keys.new(Column.CHUNK, refined)
    pull = keys.new(Column.CHUNK, refined, width)
    attractor, chord = torch.empty_like(queries_BD), torch.empty_like(queries_BD[:, 0])
    open_B, settled = (chord, False) if first is None else (first.open, True)
    for step in range(max(table.steps)):
        moving = table.refined(step)
        rows = table.total(Column.ROW, moving)
        if width <= WIDEST_SWEEP:
            _sweep(queries_BD, keys, scores, chunk_max, pull, moving, first)
        else:
            _pull(queries_BD, keys, scores, chunk_max, pull, moving, first)
        # fmt: off
        attractor_kernel[(triton.cdiv(width, PULL_BLOCK_D), rows)](
            pull, chunk_max, table.numbers, table.rules, attractor, open_B, len(table),
            D=width, SETTLED=settled, BLOCK_C=ATTRACTOR_BLOCK_C, BLOCK_D=PULL_BLOCK_D,
        )
        step_kernel[(rows,)](
            queries_BD, attractor, table.numbers, table.rules, chord, open_B, len(table),
            D=width, SETTLED=settled, BLOCK_D=STEP_BLOCK_D,
        )
        # fmt: on
    return queries_BD, scores, chord


def _sweep(
    queries_BD: torch.Tensor,
    keys: _Keys,
    scores: torch.Tensor,
    chunk_max: torch.Tensor,
    pull: torch.Tensor,
    groups: int,
    first: _First | None,
) -> None:
    """Score all keys and add them up."""
    table = keys.table
    block_d, block_n, warps = sweep_shape(keys.width)
    sweep_kernel[(table.total(Column.CHUNK, groups),)](
        queries_BD, keys.buffer, table.key_rows, table.numbers, table.rules, scores, chunk_max, pull,
        chunk_max if first is None else first.open, keys.stride, len(table),
        D=keys.width, SETTLED=first is not None, BLOCK_N=block_n, BLOCK_D=block_d, num_warps=warps,
    )  # fmt: skip


def _score(queries_BD: torch.Tensor, keys: _Keys, scores: torch.Tensor, block_max: torch.Tensor, groups: int) -> None:
    table = keys.table
    score_kernel[(table.total(Column.BLOCK, groups),)](
        queries_BD, keys.buffer, table.key_rows, table.numbers, scores, block_max, keys.stride, len(table),
        D=keys.width, BLOCK_N=BLOCK_N, BLOCK_D=SCORE_BLOCK_D,
    )  # fmt: skip


def _pull(
    queries_BD: torch.Tensor,
    keys: _Keys,
    scores: torch.Tensor,
    chunk_max: torch.Tensor,
    pull: torch.Tensor,
    groups: int,
    first: _First | None,
) -> None:
    """Add all keys up, which have to be scored before."""
    table = keys.table
    block_max = keys.new(Column.BLOCK, groups) if first is None else first.block_max
    if first is None:
        _score(queries_BD, keys, scores, block_max, groups)
    pull_kernel[(table.total(Column.CHUNK, groups) * triton.cdiv(keys.width, PULL_BLOCK_D),)](
        scores, block_max, keys.buffer, table.key_rows, table.numbers, table.rules, chunk_max, pull,
        chunk_max if first is None else first.open, keys.stride, len(table),
        D=keys.width, SETTLED=first is not None, BLOCK_N=BLOCK_N, BLOCK_D=PULL_BLOCK_D, BLOCK_K=MERGE_BLOCK,
    )  # fmt: skip


def _matrix_scores(queries_BD: torch.Tensor, keys: _Keys) -> torch.Tensor:
    """Return first scores [B, N]; of one group alone."""
    (rows, width), key_rows = queries_BD.shape, keys.table.key_rows
    count = len(key_rows)
    scores = queries_BD.new_empty(rows, count)
    matrix_kernel[(triton.cdiv(count, MATRIX_BLOCK_N), triton.cdiv(rows, MATRIX_BLOCK_B))](
        queries_BD, keys.buffer, key_rows, scores, keys.stride, rows, count,
        D=width, BLOCK_B=MATRIX_BLOCK_B, BLOCK_N=MATRIX_BLOCK_N, BLOCK_D=MATRIX_BLOCK_D, PART=PART,
    )  # fmt: skip
    return scores


def _shortlist(scores: torch.Tensor, keys: _Keys, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best two entries of each part by first scores, for queries of the first `groups`."""
    table = keys.table
    parts = table.total(Column.PART, groups)
    best_score, best_owner = keys.new(Column.PART, groups, 2), table.owners.new_empty(parts, 2)
    shortlist_kernel[(parts,)](
        scores, table.owners, table.sequences, table.numbers, best_score, best_owner, len(table), BLOCK=MERGE_BLOCK,
    )  # fmt: skip
    return best_score, best_owner


def _cut(
    shortlist: tuple[torch.Tensor, torch.Tensor],
    chord_B: torch.Tensor,
    keys: _Keys,
    groups: int,
    open_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the first score [B] that a key needs to be read again, for queries of the first `groups`."""
    table, cut_B = keys.table, torch.empty_like(chord_B)
    cut_kernel[(table.total(Column.ROW, groups),)](
        *shortlist, table.sequences, table.numbers, chord_B, cut_B, chord_B if open_B is None else open_B, len(table),
        SETTLED=open_B is not None, BLOCK=MERGE_BLOCK,
    )  # fmt: skip
    return cut_B


def _decide(
    queries_BD: torch.Tensor,
    keys: _Keys,
    routed: Routed,
    chosen: int = 0,
    first: torch.Tensor | None = None,
    cut_B: torch.Tensor | None = None,
    open_B: torch.Tensor | None = None,
) -> None:
    """Write the best two entries among all keys; of the `chosen` first groups among those that reach the cut.

    Where some are `open`, of the others nothing is written.
    """
    table = keys.table
    some, everything = table.total(Column.BLOCK, chosen), table.total(Column.BLOCK, len(table))
    best_score, best_owner = keys.new(Column.BLOCK, len(table), 2), table.owners.new_empty(everything, 2)
    # fmt: off
    for start, stop in ((0, some), (some, everything)):
        if start == stop:
            continue
        rank_kernel[(stop - start,)](
            queries_BD, keys.buffer, table.key_rows, table.owners, table.sequences, table.numbers,
            best_score, best_owner, queries_BD if first is None else first, queries_BD if cut_B is None else cut_B,
            keys.stride, start, len(table),
            D=keys.width, CHOSEN=start < some, BLOCK_N=BLOCK_N, BLOCK_D=SCORE_BLOCK_D,
        )
    merge_kernel[(table.total(Column.ROW, len(table)),)](
        best_score, best_owner, table.sequences, table.numbers, table.rules,
        routed.entry, routed.best, routed.score, routed.runner_up, routed.runner_up_score,
        routed.entry if open_B is None else open_B, len(table), SETTLED=open_B is not None, BLOCK=MERGE_BLOCK,
    )
    # fmt: on
