"""Measures: shares with their intervals, and recall against false fires as thresholds move.

A margin is by how much a score is above its threshold; moving all thresholds by t makes fire what has a margin above t.
Shapes: Q contexts that are asked.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch

_Z: Final = 1.959964
"""Of a 95 % interval."""
_POINTS: Final = 60
"""Most points of a curve."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share and its 95 % Wilson interval.

    A prompt is one observation in however many forms it is asked: its forms fire together more often than not.
    """

    share: float
    low: float
    high: float
    n: int
    """Distinct prompts."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Recall with its interval where the share `rate` of other questions fires."""

    rate: float
    recall: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Routes:
    """What contexts find in a codebook, by group of entries.

    Attributes
    ----------
    texts
        [Q] int64, number of the text that each context is a form of.
    open_margin, open_entry
        [Q] best entry without anchors; -inf where there is none.
    hit_margin, hit_entry
        [Q] best entry whose subject occurs; it goes before the open one.
    """

    texts: torch.Tensor
    open_margin: torch.Tensor
    open_entry: torch.Tensor
    hit_margin: torch.Tensor
    hit_entry: torch.Tensor

    def fires(self, moved: float = 0.0) -> torch.Tensor:
        """Return whether some entry fires [Q]."""
        return torch.maximum(self.open_margin, self.hit_margin) > moved

    def right(self, moved: float = 0.0) -> torch.Tensor:
        """Return whether the entry fires [Q] that has the number of the text."""
        hit = self.hit_margin > moved
        open_right = (self.open_margin > moved) & (self.open_entry == self.texts)
        return torch.where(hit, self.hit_entry == self.texts, open_right)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share of n observations."""
    spread = _Z * _Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def share_of(holds: torch.Tensor, texts: torch.Tensor) -> Share | None:
    """Return the share of contexts for which `holds` [Q]; None for no contexts."""
    if not len(holds):
        return None
    share, n = float(holds.double().mean()), len(set(texts.tolist()))
    return Share(share, *wilson(share, n), n)


def pooled(*shares: Share | None) -> Share | None:
    """Return the share among all prompts of several disjoint sets."""
    known = [share for share in shares if share is not None]
    n = sum(share.n for share in known)
    whole = sum(share.share * share.n for share in known) / n if n else 0.0
    return Share(whole, *wilson(whole, n), n) if n else None


def recall_at(rate: float, asked: Routes, others: Routes) -> Share | None:
    """Return the recall with thresholds at which at most the share `rate` of `others` fires."""
    if not len(others.texts):
        return None
    return share_of(asked.right(_moved(others, int(rate * len(others.texts)))), asked.texts)


def curve(asked: Routes, others: Routes, highest: float = 0.5) -> tuple[CurvePoint, ...]:
    """Return recall against the share of `others` that fires, up to the share `highest`."""
    most = int(highest * len(others.texts))
    steps = sorted({round((most + 1) ** (at / _POINTS)) - 1 for at in range(_POINTS + 1)}) if most else []
    return tuple(_point(asked, others, _moved(others, allowed)) for allowed in steps)


def _moved(others: Routes, allowed: int) -> float:
    """Return the least move of the thresholds at which at most `allowed` contexts fire."""
    margins = torch.maximum(others.open_margin, others.hit_margin)
    return float(margins.topk(allowed + 1).values[-1])


def _point(asked: Routes, others: Routes, moved: float) -> CurvePoint:
    rate = float(others.fires(moved).double().mean())
    found = share_of(asked.right(moved), asked.texts)
    assert found is not None, "a curve is drawn for rephrases"
    return CurvePoint(rate, found.share, found.low, found.high)
