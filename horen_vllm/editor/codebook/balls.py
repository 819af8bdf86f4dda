"""Balls: the keys and radii of a GRACE codebook, and how far a distance can be trusted.

Shapes: B queries, D width of the site's input.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from horen_vllm.core.admission import Existing
from horen_vllm.core.euclid import distances, rounding
from horen_vllm.ids import EditId

Splits = Sequence[tuple[str, float]]
"""Edits, and the distance at which their radius ends."""


@dataclass(frozen=True, slots=True)
class GraceEntry:
    """An entry of the codebook."""

    existing: Existing
    row: int
    """Of its key; entries with the same key have the same row."""
    radius: float
    splits: Splits = ()


@dataclass(frozen=True, slots=True)
class Ball:
    """What a new entry is to store."""

    key: torch.Tensor
    """[D + 2] float32, lifted."""
    radius: float
    splits: tuple[tuple[EditId, float], ...] = ()


def effective_radii(entries: Iterable[tuple[str, float, Splits]]) -> dict[str, float]:
    """Return up to where each entry fires: its radius, or the least of the splits that name it.

    Parameters
    ----------
    entries
        Edit, radius and splits of every entry of a revision; splits that name others mean nothing.
    """
    listed = list(entries)
    radii = {edit_id: radius for edit_id, radius, _ in listed}
    for _, _, splits in listed:
        for edit_id, radius in splits:
            if edit_id in radii:
                radii[edit_id] = min(radii[edit_id], radius)
    return radii


def bounds(queries_BD: torch.Tensor, key_W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the most and the least [B] float64 that the server may take the distances from a key for."""
    squares = distances(queries_BD, key_W[None])[:, 0].double().square()
    slack = rounding(queries_BD, key_W[None])[:, 0].double()
    return (squares + slack).sqrt(), (squares - slack).clamp_min(0.0).sqrt()


def radius_over(query: torch.Tensor, key: torch.Tensor) -> float:
    """Return the least float32 radius around a key [D + 2] within which a query [D] fires for certain."""
    most, _ = bounds(query[None], key)
    return float(torch.nextafter(most.float(), torch.tensor(math.inf)))
