"""Route: refine unit queries and find the best two entries of a revision, over paged keys (sections 2.2 and 2.3).

Every pass splits the keys into parts whose size depends on nothing but their number and width, so that one query
fills a GPU and a row's result is the same whatever else is in the batch. The derivation is in ``README.md``.
Shapes: B queries, N keys of the revision, P rows of the key buffer, D width, E entries, K blocks, C chunks.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from horen_vllm.core.match import Routed
from horen_vllm.kernels.route_kernels import (
    attractor_kernel,
    merge_kernel,
    pull_kernel,
    rank_kernel,
    score_kernel,
    step_kernel,
)
from horen_vllm.kernels.route_torch import nothing
from horen_vllm.kernels.sweep_kernels import cut_kernel, matrix_kernel, shortlist_kernel, sweep_kernel

BLOCK_N = 16
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
    """The keys of one revision, where they lie: buffer [P, D], rows and owners [N], sequences [E]."""

    buffer: torch.Tensor
    rows: torch.Tensor
    owners: torch.Tensor
    sequences: torch.Tensor

    @property
    def count(self) -> int:
        return self.rows.shape[0]

    @property
    def stride(self) -> int:
        return self.buffer.stride(0)


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
    matrix: bool = False,
) -> Routed:
    """Launch the kernels; same contract as `route_torch`.

    With `matrix` (and without refinement) first scores come from the matrix units, from products of bfloat16 parts;
    those only choose the keys that are scored in float32, so results are the same to the bit.
    """
    if 0 in (queries_BD.shape[0], key_rows_N.shape[0]):
        return nothing(queries_BD)
    queries_BD, keys = queries_BD.contiguous(), _Keys(keys_PD, key_rows_N, owners_N, sequences_E)
    if steps:
        refined_BD, first_BN, chord_B = _refine(queries_BD, keys, beta=beta, gamma=gamma, steps=steps, epsilon=epsilon)
        return _decide(refined_BD, keys, threshold, first_BN, _cut(first_BN, chord_B, keys))
    if matrix and directions:
        first_BN = _matrix_scores(queries_BD, keys)
        cut_B = _cut(first_BN, torch.zeros_like(queries_BD[:, 0]), keys)
        return _decide(queries_BD, keys, threshold, first_BN, cut_B)
    return _decide(queries_BD, keys, threshold)


def chunking(keys: int, width: int) -> tuple[int, int]:
    """Return how many chunks the softmax sums `keys` (>= 1) in, and how many keys each has, a whole number of blocks.

    A function of the number of keys and their width alone, so that a sum is the same on every rank and in every batch.
    Enough chunks to fill a GPU, but so few that their sums are small beside the keys.
    """
    most = 512 if width <= 2048 else 256
    chunk = triton.cdiv(triton.cdiv(keys, most), BLOCK_N) * BLOCK_N
    return triton.cdiv(keys, chunk), chunk


def sweep_shape(width: int) -> tuple[int, int, int]:
    """Return BLOCK_D, BLOCK_N and warps of the sweep for keys of this width, at most `WIDEST_SWEEP`."""
    block = max(16, triton.next_power_of_2(width))
    return block, max(1, min(8, 8192 // block)), 4 if block <= 4096 else block // 1024


def _refine(
    queries_BD: torch.Tensor, keys: _Keys, *, beta: float, gamma: float, steps: int, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the refined queries, and how those before the last step scored [B, N] and how far it led [B]."""
    (rows, width), count = queries_BD.shape, keys.count
    chunks, chunk = chunking(count, width)
    scores, chunk_max = queries_BD.new_empty(rows, count), queries_BD.new_empty(rows, chunks)
    pull = queries_BD.new_empty(rows, chunks, width)
    attractor, refined, chord = torch.empty_like(queries_BD), torch.empty_like(queries_BD), queries_BD.new_empty(rows)
    read = _sweep if width <= WIDEST_SWEEP else _score_and_pull
    for _ in range(steps):
        read(queries_BD, keys, scores, chunk_max, pull, beta, chunk)
        # fmt: off
        attractor_kernel[(triton.cdiv(width, PULL_BLOCK_D), rows)](
            pull, chunk_max, attractor, float(beta), chunks,
            D=width, BLOCK_C=ATTRACTOR_BLOCK_C, BLOCK_D=PULL_BLOCK_D,
        )
        step_kernel[(rows,)](
            queries_BD, attractor, refined, chord, 1.0 - gamma, float(gamma), float(epsilon),
            D=width, BLOCK_D=STEP_BLOCK_D,
        )
        # fmt: on
        queries_BD = refined
    return refined, scores, chord


def _sweep(
    queries_BD: torch.Tensor,
    keys: _Keys,
    scores: torch.Tensor,
    chunk_max: torch.Tensor,
    pull: torch.Tensor,
    beta: float,
    chunk: int,
) -> None:
    rows, chunks, width = pull.shape
    block_d, block_n, warps = sweep_shape(width)
    sweep_kernel[(chunks * rows,)](
        queries_BD, keys.buffer, keys.rows, scores, chunk_max, pull, float(beta), keys.stride,
        rows, keys.count, chunks, chunk, D=width, BLOCK_N=block_n, BLOCK_D=block_d, num_warps=warps,
    )  # fmt: skip


def _score_and_pull(
    queries_BD: torch.Tensor,
    keys: _Keys,
    scores: torch.Tensor,
    chunk_max: torch.Tensor,
    pull: torch.Tensor,
    beta: float,
    chunk: int,
) -> None:
    rows, chunks, width = pull.shape
    blocks, columns = triton.cdiv(keys.count, BLOCK_N), triton.cdiv(width, PULL_BLOCK_D)
    block_max = queries_BD.new_empty(rows, blocks)
    # fmt: off
    score_kernel[(blocks * rows,)](
        queries_BD, keys.buffer, keys.rows, scores, block_max, keys.stride, rows, keys.count, blocks,
        D=width, BLOCK_N=BLOCK_N, BLOCK_D=SCORE_BLOCK_D,
    )
    pull_kernel[(chunks * columns * rows,)](
        scores, block_max, keys.buffer, keys.rows, chunk_max, pull, float(beta), keys.stride,
        rows, keys.count, blocks, chunks, chunk,
        D=width, BLOCK_N=BLOCK_N, BLOCK_D=PULL_BLOCK_D, BLOCK_K=MERGE_BLOCK,
    )
    # fmt: on


def _matrix_scores(queries_BD: torch.Tensor, keys: _Keys) -> torch.Tensor:
    rows, width = queries_BD.shape
    scores = queries_BD.new_empty(rows, keys.count)
    matrix_kernel[(triton.cdiv(keys.count, MATRIX_BLOCK_N), triton.cdiv(rows, MATRIX_BLOCK_B))](
        queries_BD, keys.buffer, keys.rows, scores, keys.stride, rows, keys.count,
        D=width, BLOCK_B=MATRIX_BLOCK_B, BLOCK_N=MATRIX_BLOCK_N, BLOCK_D=MATRIX_BLOCK_D, PART=PART,
    )  # fmt: skip
    return scores


def _cut(first_BN: torch.Tensor, chord_B: torch.Tensor, keys: _Keys) -> torch.Tensor:
    """Return the first score [B] that a key needs to be read again."""
    rows, blocks = first_BN.shape[0], triton.cdiv(keys.count, MERGE_BLOCK)
    best_score, best_owner = first_BN.new_empty(rows, blocks, 2), keys.owners.new_empty(rows, blocks, 2)
    cut_B = torch.empty_like(chord_B)
    # fmt: off
    shortlist_kernel[(blocks, rows)](
        first_BN, keys.owners, best_score, best_owner, keys.count, blocks, BLOCK=MERGE_BLOCK,
    )
    cut_kernel[(rows,)](
        best_score, best_owner, keys.sequences, chord_B, cut_B, 2 * blocks, BLOCK=MERGE_BLOCK,
    )
    # fmt: on
    return cut_B


def _decide(
    queries_BD: torch.Tensor,
    keys: _Keys,
    threshold: float,
    first_BN: torch.Tensor | None = None,
    cut_B: torch.Tensor | None = None,
) -> Routed:
    """Score all keys, or those whose first score reaches the cut, and take the best two entries."""
    (rows, width), count = queries_BD.shape, keys.count
    blocks = triton.cdiv(count, BLOCK_N)
    best_score, best_owner = queries_BD.new_empty(rows, blocks, 2), keys.owners.new_empty(rows, blocks, 2)
    score, second_score = queries_BD.new_empty(rows), queries_BD.new_empty(rows)
    entry, best, second = (keys.owners.new_empty(rows) for _ in range(3))
    # fmt: off
    rank_kernel[(blocks * rows,)](
        queries_BD, keys.buffer, keys.rows, keys.owners, keys.sequences, best_score, best_owner,
        queries_BD if first_BN is None else first_BN, queries_BD if cut_B is None else cut_B,
        keys.stride, rows, count, blocks,
        D=width, CHOSEN=first_BN is not None, BLOCK_N=BLOCK_N, BLOCK_D=SCORE_BLOCK_D,
    )
    merge_kernel[(rows,)](
        best_score, best_owner, keys.sequences, entry, best, score, second, second_score,
        float(threshold), 2 * blocks, BLOCK=MERGE_BLOCK,
    )
    # fmt: on
    return Routed(entry, best, score, second, second_score)
