"""Damped Hopfield refinement of queries (section 2.3, eq. 2-3, Alg. 1), and the energy it descends.

Stored keys are never refined; only a request's query is (the paper's asymmetry).
Shapes: B queries, N keys, D width. Where the width is sharded over ranks, `reduce` sums over them.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

Reduce = Callable[[torch.Tensor], torch.Tensor]
"""Sums a partial result over the ranks that hold shards of the width, the same on all of them."""


def whole(partial: torch.Tensor) -> torch.Tensor:
    """Return what is complete already: the `Reduce` of a single rank."""
    return partial


def unit(rows_BD: torch.Tensor, reduce: Reduce = whole) -> torch.Tensor:
    """Return the rows [B, D] divided by their L2 norm."""
    if reduce is whole:
        return F.normalize(rows_BD, dim=-1)
    squares_B1 = reduce(rows_BD.square().sum(dim=-1, keepdim=True))
    return rows_BD / squares_B1.sqrt().clamp_min(1e-12)


def attractor(queries_BD: torch.Tensor, keys_ND: torch.Tensor, beta: float) -> torch.Tensor:
    """Return ``T(q) = softmax(beta q K^T) K`` [B, D], the undamped Hopfield map (Theorem 2.1)."""
    weights_BN = torch.softmax(beta * (queries_BD @ keys_ND.T), dim=-1)
    return weights_BN @ keys_ND


def energy(queries_BD: torch.Tensor, keys_ND: torch.Tensor, beta: float) -> torch.Tensor:
    """Return ``E(q, K) = |q|^2 / 2 - logsumexp(beta q K^T) / beta`` [B] (Lemma C.1)."""
    potential_B = torch.logsumexp(beta * (queries_BD @ keys_ND.T), dim=-1) / beta
    return queries_BD.square().sum(dim=-1) / 2 - potential_B


def refine(
    queries_BD: torch.Tensor,
    keys_ND: torch.Tensor,
    *,
    beta: float,
    gamma: float,
    steps: int,
    epsilon: float,
    reduce: Reduce = whole,
) -> torch.Tensor:
    """Return the refined unit queries [B, D] after at most `steps` damped steps.

    One step is ``q <- normalize((1 - gamma) q + gamma normalize(pK))``. A row stops for good once its attractor
    is within `epsilon` of it (Alg. 1's early stop); rows never look at each other, and nothing is read back to
    the host.
    """
    if keys_ND.shape[0] == 0:
        return queries_BD
    moving_B1 = torch.ones_like(queries_BD[:, :1], dtype=torch.bool)
    for _ in range(steps):
        weights_BN = torch.softmax(beta * reduce(queries_BD @ keys_ND.T), dim=-1)
        target_BD = unit(weights_BN @ keys_ND, reduce)
        distance_B1 = reduce((target_BD - queries_BD).square().sum(dim=-1, keepdim=True)).sqrt()
        moving_B1 = moving_B1 & (distance_B1 > epsilon)
        stepped_BD = unit((1 - gamma) * queries_BD + gamma * target_BD, reduce)
        queries_BD = torch.where(moving_B1, stepped_BD, queries_BD)
    return queries_BD
