"""Routing space: the map from averaged site inputs to unit queries. Identity (the paper) for now.

Shapes: T tokens, B queries, D width of the site's input.
"""

import torch
from torch.nn import functional as F

from horen_vllm.core.refine import Reduce, unit, whole


def unit_query(inputs_TD: torch.Tensor) -> torch.Tensor:
    """Return the unit query [D] of one prompt: fp32 mean of its window's site inputs [T, D], then L2.

    Section 2.2: ``q0 = normalize(select(H_in))``.
    """
    return F.normalize(inputs_TD.float().mean(dim=0), dim=0)


def unit_queries_from_sums(sums_BD: torch.Tensor, reduce: Reduce = whole) -> torch.Tensor:
    """Return unit queries [B, D] from sums of site inputs [B, D] in fp32; `reduce` as in `core.refine`.

    The mean's division by the token count does not change the direction, so it is left out.
    """
    return unit(sums_BD.float(), reduce)
