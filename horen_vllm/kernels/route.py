"""Route: refine unit queries and find the best two entries of a revision, over paged keys (sections 2.2 and 2.3).

Every pass splits the keys into blocks whose size depends on nothing but the number of keys, so that one query
fills a GPU and a row's result is the same whatever else is in the batch. The derivation is in ``README.md``.
Shapes: B queries, N keys of the revision, P rows of the key buffer, D width, E entries, K blocks, C chunks.
"""

from collections.abc import Iterator

import torch
import triton

from horen_vllm.core.match import NO_ENTRY, Routed, decide_tensors
from horen_vllm.core.refine import unit
from horen_vllm.kernels.route_kernels import (
    attractor_kernel,
    merge_kernel,
    pull_kernel,
    rank_kernel,
    score_kernel,
    step_kernel,
)

BLOCK_N = 16
SCORE_BLOCK_D = 512
PULL_BLOCK_D = 128
STEP_BLOCK_D = 2048
MERGE_BLOCK = 1024
CHUNK = 256
MOST_CHUNKS = 32
_TORCH_BLOCK = 1 << 22
"""Numbers in a block of keys that the torch form takes at once: scattered rows are copied 16 MiB at a time."""


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
) -> Routed:
    """Launch the kernels: four for each refinement step, two for the decision; same contract as `route_torch`."""
    if 0 in (queries_BD.shape[0], key_rows_N.shape[0]):
        return _nothing(queries_BD)
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


def _nothing(queries_BD: torch.Tensor) -> Routed:
    none_B = torch.full_like(queries_BD[:, 0], NO_ENTRY, dtype=torch.int64)
    low_B = torch.full_like(queries_BD[:, 0], -torch.inf)
    return Routed(none_B, none_B, low_B, none_B, low_B)


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
) -> Routed:
    """Route unit queries as ``core.match.route_tensors`` does, with the keys read where they lie.

    Rows are independent: a row's result does not depend on the others, nor on how many there are. A query that
    is not a number matches nothing.

    Parameters
    ----------
    queries_BD
        [B, D] float32, unit rows, unrefined.
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
    """
    if 0 in (queries_BD.shape[0], key_rows_N.shape[0]):
        return _nothing(queries_BD)
    moving_B1 = torch.ones_like(queries_BD[:, :1], dtype=torch.bool)
    for _ in range(steps):
        weights_BN = torch.softmax(beta * _scores_torch(queries_BD, keys_PD, key_rows_N), dim=-1)
        target_BD = unit(_attractor_torch(weights_BN, keys_PD, key_rows_N))
        moving_B1 = moving_B1 & ((target_BD - queries_BD).norm(dim=-1, keepdim=True) > epsilon)
        stepped_BD = unit((1 - gamma) * queries_BD + gamma * target_BD)
        queries_BD = torch.where(moving_B1, stepped_BD, queries_BD)
    scores_BN = _scores_torch(queries_BD, keys_PD, key_rows_N)
    scores_BN = scores_BN.masked_fill(scores_BN.isnan(), -torch.inf)
    scores_BE = scores_BN.new_full((scores_BN.shape[0], sequences_E.shape[0]), -torch.inf)
    scores_BE.scatter_reduce_(1, owners_N.expand_as(scores_BN), scores_BN, reduce="amax")
    routed = decide_tensors(scores_BE, sequences_E, threshold)
    best = torch.where(torch.isneginf(routed.score), NO_ENTRY, routed.best)
    return Routed(routed.entry, best, routed.score, routed.runner_up, routed.runner_up_score)


def _scores_torch(queries_BD: torch.Tensor, keys_PD: torch.Tensor, key_rows_N: torch.Tensor) -> torch.Tensor:
    scores_BN = queries_BD.new_empty(queries_BD.shape[0], key_rows_N.shape[0])
    for first, block in _key_blocks(keys_PD, key_rows_N):
        # One row at a time: a matrix product's rounding may depend on how many rows it has.
        for query, scores in zip(queries_BD, scores_BN, strict=True):
            torch.mv(block, query, out=scores[first : first + block.shape[0]])
    return scores_BN


def _attractor_torch(weights_BN: torch.Tensor, keys_PD: torch.Tensor, key_rows_N: torch.Tensor) -> torch.Tensor:
    pulled_BD = weights_BN.new_zeros(weights_BN.shape[0], keys_PD.shape[1])
    for first, block in _key_blocks(keys_PD, key_rows_N):
        for weights, pulled in zip(weights_BN, pulled_BD, strict=True):
            pulled.addmv_(block.T, weights[first : first + block.shape[0]])
    return pulled_BD


def _key_blocks(keys_PD: torch.Tensor, key_rows_N: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    size = max(1, _TORCH_BLOCK // keys_PD.shape[1])
    for first in range(0, key_rows_N.shape[0], size):
        rows = key_rows_N[first : first + size]
        if bool((rows.diff() == 1).all()):
            start = int(rows[0])
            yield first, keys_PD[start : start + rows.shape[0]]
        else:
            yield first, keys_PD.index_select(0, rows)
