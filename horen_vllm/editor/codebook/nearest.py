"""Nearest rows: which few keys of a large arena can decide a query, found for a whole batch of queries at once.

Knows plain cosine only: after refinement every key has a say, and nothing can be left out.
Shapes: B queries, N keys, D width, T listed rows.
"""

from dataclasses import dataclass
from typing import Final

import torch

_LISTED: Final = 32
"""T: rows that are listed for a query at most."""
_PART_BYTES: Final = 1 << 24
"""Size of the keys that are scored at a time."""
_QUERIES: Final = 512
"""Queries of one product."""
_SLACK: Final = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
"""How far a score of unit vectors can be off: 2^-9 for either factor and for the result in bfloat16."""


@dataclass(frozen=True, slots=True)
class NearestRows:
    """What a batch of queries has to look at.

    Attributes
    ----------
    rows
        [B, T] int64, rows with the highest scores; -1 where there are fewer.
    bound
        [B] float32; no row that is not listed scores more than this.
    """

    rows: torch.Tensor
    bound: torch.Tensor


def nearest_rows(queries_BD: torch.Tensor, keys_ND: torch.Tensor, floor: float) -> NearestRows:
    """List the keys that score highest for each query; what scores at most `floor` need not be listed.

    The scores here only choose, so they are computed in bfloat16 where the CPU has instructions for it: the bounds
    allow for its error, and whoever decides computes the listed rows' scores again in float32.

    Parameters
    ----------
    queries_BD, keys_ND
        [B, D] and [N, D] float32, unit rows.
    floor
        Score up to which a row cannot matter.
    """
    dtype = torch.bfloat16 if _fast_bfloat16() else torch.float32
    slack = _SLACK[dtype]
    values_BT = torch.full((len(queries_BD), _LISTED), -torch.inf)
    rows_BT = torch.full((len(queries_BD), _LISTED), -1, dtype=torch.int64)
    low_BD = queries_BD.to(dtype)
    rows = max(1, _PART_BYTES // (4 * keys_ND.shape[1]))
    # One buffer for all parts: to get fresh memory for each costs as much as half the products.
    buffer_ND = torch.empty(min(rows, len(keys_ND)), keys_ND.shape[1], dtype=dtype)
    for start in range(0, len(keys_ND), rows):
        part_ND = buffer_ND[: len(keys_ND) - start].copy_(keys_ND[start : start + rows])
        for first in range(0, len(low_BD), _QUERIES):
            part = slice(first, first + _QUERIES)
            _merge(values_BT[part], rows_BT[part], low_BD[part] @ part_ND.T, start, floor - slack)
    return NearestRows(rows_BT, (values_BT[:, -1] + slack).clamp_min(floor))


def _merge(values_BT: torch.Tensor, rows_BT: torch.Tensor, scores_BN: torch.Tensor, start: int, least: float) -> None:
    """Take the best of some more rows, the first of them number `start`, into the lists."""
    hot = (scores_BN.amax(dim=1) >= least).nonzero()[:, 0]
    if not len(hot):
        return
    found = scores_BN[hot].topk(min(_LISTED, scores_BN.shape[1]), dim=1)
    values = torch.cat([values_BT[hot], found.values.float()], dim=1)
    rows = torch.cat([rows_BT[hot], found.indices + start], dim=1)
    best = values.topk(_LISTED, dim=1)
    values_BT[hot], rows_BT[hot] = best.values, rows.gather(1, best.indices)


def _fast_bfloat16() -> bool:
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
