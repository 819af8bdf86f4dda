"""Damped Hopfield refinement of queries (section 2.3, eq. 2-3, Alg. 1), and the energy it descends.

Stored keys are never refined; only a request's query is (the paper's asymmetry).
Shapes: B queries, N keys, D width.
"""

import torch
from torch.nn import functional as F


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
        target_BD = F.normalize(attractor(queries_BD, keys_ND, beta), dim=-1)
        moving_B1 = moving_B1 & ((target_BD - queries_BD).norm(dim=-1, keepdim=True) > epsilon)
        stepped_BD = F.normalize((1 - gamma) * queries_BD + gamma * target_BD, dim=-1)
        queries_BD = torch.where(moving_B1, stepped_BD, queries_BD)
    return queries_BD
