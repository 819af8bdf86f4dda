"""Route: refine unit queries and find the best two entries of a revision, over paged keys (sections 2.2 and 2.3).

Every pass splits the keys into blocks whose size depends on nothing but the number of keys, so that one query
fills a GPU and a row's result is the same whatever else is in the batch. The derivation is in ``README.md``.
Shapes: B queries, N keys of the revision, P rows of the key buffer, D width, E entries, K blocks, C chunks.
"""

import torch
import triton

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

BLOCK_N = 16
SCORE_BLOCK_D = 512
PULL_BLOCK_D = 128
STEP_BLOCK_D = 2048
MERGE_BLOCK = 1024
CHUNK = 256
MOST_CHUNKS = 32


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
    directions: bool = True,  # noqa: ARG001 - every key is scored in full here
) -> Routed:
    """Launch the kernels: four for each refinement step, two for the decision; same contract as `route_torch`."""
    if 0 in (queries_BD.shape[0], key_rows_N.shape[0]):
        return nothing(queries_BD)
    queries_BD = queries_BD.contiguous()
    if steps:
        queries_BD = _refine(queries_BD, keys_PD, key_rows_N, beta=beta, gamma=gamma, steps=steps, epsilon=epsilon)
    return _decide(queries_BD, keys_PD, key_rows_N, owners_N, sequences_E, threshold)


def _refine(
    queries_BD: torch.Tensor,
    keys_PD: torch.Tensor,
    key_rows_N: torch.Tensor,
    *,
    beta: float,
    gamma: float,
    steps: int,
    epsilon: float,
) -> torch.Tensor:
    (rows, width), keys = queries_BD.shape, key_rows_N.shape[0]
    blocks, (chunks, chunk) = triton.cdiv(keys, BLOCK_N), chunking(keys)
    scores, block_max = queries_BD.new_empty(rows, keys), queries_BD.new_empty(rows, blocks)
    pull = queries_BD.new_empty(rows, chunks, width)
    attractor, refined = torch.empty_like(queries_BD), torch.empty_like(queries_BD)
    columns = triton.cdiv(width, PULL_BLOCK_D)
    stride = keys_PD.stride(0)
    for _ in range(steps):
        # fmt: off
        score_kernel[(blocks * rows,)](
            queries_BD, keys_PD, key_rows_N, scores, block_max, stride, rows, keys, blocks,
            D=width, BLOCK_N=BLOCK_N, BLOCK_D=SCORE_BLOCK_D,
        )
        pull_kernel[(chunks * columns * rows,)](
            scores, block_max, keys_PD, key_rows_N, pull, float(beta), stride, rows, keys, blocks, chunks, chunk,
            D=width, BLOCK_N=BLOCK_N, BLOCK_D=PULL_BLOCK_D, BLOCK_K=MERGE_BLOCK,
        )
        attractor_kernel[(columns, rows)](pull, attractor, chunks, D=width, BLOCK_D=PULL_BLOCK_D)
        step_kernel[(rows,)](
            queries_BD, attractor, refined, 1.0 - gamma, float(gamma), float(epsilon),
            D=width, BLOCK_D=STEP_BLOCK_D,
        )
        # fmt: on
        queries_BD = refined
    return queries_BD


def chunking(keys: int) -> tuple[int, int]:
    """Return how many chunks the softmax sums `keys` (>= 1) in, and how many keys each has, a whole number of blocks.

    A function of the number of keys alone, so that a sum is the same on every rank and in every batch.
    """
    chunks = min(MOST_CHUNKS, triton.cdiv(keys, CHUNK))
    chunk = triton.cdiv(triton.cdiv(keys, chunks), BLOCK_N) * BLOCK_N
    return triton.cdiv(keys, chunk), chunk


def _decide(
    queries_BD: torch.Tensor,
    keys_PD: torch.Tensor,
    key_rows_N: torch.Tensor,
    owners_N: torch.Tensor,
    sequences_E: torch.Tensor,
    threshold: float,
) -> Routed:
    (rows, width), keys = queries_BD.shape, key_rows_N.shape[0]
    blocks = triton.cdiv(keys, BLOCK_N)
    best_score, best_owner = queries_BD.new_empty(rows, blocks, 2), owners_N.new_empty(rows, blocks, 2)
    score, second_score = queries_BD.new_empty(rows), queries_BD.new_empty(rows)
    entry, best, second = (owners_N.new_empty(rows) for _ in range(3))
    # fmt: off
    rank_kernel[(blocks * rows,)](
        queries_BD, keys_PD, key_rows_N, owners_N, sequences_E, best_score, best_owner,
        keys_PD.stride(0), rows, keys, blocks, D=width, BLOCK_N=BLOCK_N, BLOCK_D=SCORE_BLOCK_D,
    )
    merge_kernel[(rows,)](
        best_score, best_owner, sequences_E, entry, best, score, second, second_score,
        float(threshold), 2 * blocks, BLOCK=MERGE_BLOCK,
    )
    # fmt: on
    return Routed(entry, best, score, second, second_score)
