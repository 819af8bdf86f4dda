"""Euclidean nearness as a scalar product: GRACE's keys and queries with two more columns.

A key ``[k, -|k|^2 / 2, -1 / 2]`` and a query ``[x, 1, |x|^2]`` have the product ``-|x - k|^2 / 2``, so the nearest key
is the one with the largest product, and whatever finds that serves GRACE, too. Large numbers cancel in that product
(`rounding`). Shapes: B rows, N keys, D width of the site's input.
"""

from typing import Final

import torch

LIFT: Final = 2
"""Columns that keys and queries have beyond the site's input."""
_KEYS: Final = 256
"""Keys that distances are taken from at once, for the memory's sake."""
_ROUNDING: Final = 2.0**-18
"""Measured: at most 2^-19.4, over orders of summation, widths to 28,672 and activations with outliers."""


def lifted_key(rows_BD: torch.Tensor) -> torch.Tensor:
    """Return the keys [B, D + 2] float32 of activations [B, D]."""
    rows = rows_BD.float()
    half = -0.5 * rows.square().sum(dim=-1, keepdim=True)
    return torch.cat([rows, half, torch.full_like(half, -0.5)], dim=-1)


def lifted_query(rows_BD: torch.Tensor) -> torch.Tensor:
    """Return the queries [B, D + 2] float32 of activations [B, D]."""
    rows = rows_BD.float()
    squares = rows.square().sum(dim=-1, keepdim=True)
    return torch.cat([rows, torch.ones_like(squares), squares], dim=-1)


def distances(rows_BD: torch.Tensor, keys_NW: torch.Tensor) -> torch.Tensor:
    """Return the distances [B, N] float32 of activations [B, D] from lifted keys [N, D + 2], without cancellation."""
    rows_B1D, plain_ND = rows_BD.float()[:, None], keys_NW[:, : keys_NW.shape[1] - LIFT]
    # `torch.cdist` adds one by one, which loses five digits in wide rows.
    parts = [(rows_B1D - part).square().sum(dim=-1) for part in torch.split(plain_ND, _KEYS)]
    return torch.cat(parts, dim=1).sqrt()


def rounding(rows_BD: torch.Tensor, keys_NW: torch.Tensor) -> torch.Tensor:
    """Return by how much [B, N] the square of a distance may be off that a product in float32 gives."""
    squares_B1 = rows_BD.float().square().sum(dim=-1, keepdim=True)
    return _ROUNDING * (squares_B1 - 2.0 * keys_NW[:, -LIFT])
