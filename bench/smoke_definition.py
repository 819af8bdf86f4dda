"""What the checks of the kernels hold against: route's definition in fp64, and equality to the bit."""

from typing import Any

import torch
from torch.nn import functional as F

from horen_vllm.core.match import Routed

Report = tuple[str, bool, str]
"""Name of a check, whether it passed, what was measured."""


def apart(one: Routed, other: Routed) -> list[str]:
    """Return the columns that are not equal to the bit."""
    return [name for name in one.__slots__ if not torch.equal(getattr(one, name), getattr(other, name))]


def against_definition(
    queries: torch.Tensor, keys: torch.Tensor, owners: torch.Tensor, routed: Any, rule: dict[str, Any]
) -> tuple[float, bool]:
    """Return the largest error of both scores against fp64, and whether every sure decision is right."""
    keys, refined = keys.double(), queries.double()
    for _ in range(rule["steps"]):
        target = F.normalize(torch.softmax(rule["beta"] * refined @ keys.T, -1) @ keys, dim=-1)
        moving = (target - refined).norm(dim=-1, keepdim=True) > rule["epsilon"]
        refined = torch.where(moving, F.normalize((1 - rule["gamma"]) * refined + rule["gamma"] * target), refined)
    scores = torch.full((len(queries), int(owners.max()) + 1), -torch.inf, dtype=torch.float64)
    scores.scatter_reduce_(1, owners.expand(len(queries), -1), refined @ keys.T, reduce="amax")
    top = scores.topk(2)
    error = (torch.stack([routed.score, routed.runner_up_score], 1).double() - top.values).abs().max()
    sure = top.values[:, 0] - top.values[:, 1] > 1e-6
    right = torch.equal(routed.best[sure], top.indices[sure, 0])
    matched = torch.where(top.values[:, 0] > rule["threshold"], routed.best, -1)
    return float(error), right and torch.equal(routed.entry, matched)
