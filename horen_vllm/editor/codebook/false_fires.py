"""The threshold that a codebook's keys call for: so high that no more background queries match than asked for.

The best of N scores grows with N, and it depends on which keys they are; so it is taken over the keys themselves
(architecture.md, *Revisions*). It is a function of the set of keys alone: whatever was added and taken out again, in
whatever order or batch, leaves no trace.
Shapes: B background queries, N rows of the key arena, W width of a key.
"""

import math
from collections.abc import Collection, Sequence
from typing import Final

import torch

from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.refine import refine
from horen_vllm.editor.codebook.arena import NOBODY, KeyArena

HIGHEST: Final = 0.9998
"""An entry's own prompt must still match: its fp32 cosine with itself may be a little below 1."""
FLOOR_MARGIN: Final = 0.01
"""How far above a must-not-fire prompt's score its entry's floor is published: servers may score it a little higher."""
LOWEST: Final = 0.0
"""Threshold of a codebook without keys, and the least of any."""
_MOST_SCORES: Final = 1 << 23
"""Most scores that are held at once."""
_DIGITS: Final = 10_000
"""The threshold is rounded up to a whole multiple of one part in so many, so that the last bits of a score, which
depend on how many are computed together, cannot move it."""


def false_fires_of(background_BW: torch.Tensor, parameters: MethodParameters, arena: KeyArena) -> "FalseFires":
    """Return what keeps the threshold of a codebook with these parameters, whose `false_fire_rate` is not None."""
    assert parameters.false_fire_rate is not None
    if parameters.steps:
        return RefinedFalseFires(background_BW, parameters, arena)
    return FalseFires(background_BW, parameters.false_fire_rate, arena)


class FalseFires:
    """What the background scores with the keys of an arena, without refinement.

    Parameters
    ----------
    background_BW
        [B, W] unit queries.
    rate
        Share of them that may match, in (0, 1).
    arena
        The keys; those that nobody holds do not count.
    """

    def __init__(self, background_BW: torch.Tensor, rate: float, arena: KeyArena) -> None:
        # In double: sums that differ by their order alone are equal in all the digits that are kept.
        self._background_BW = background_BW.double()
        self._allowed = int(rate * len(background_BW))
        self._arena = arena
        self._score_B = torch.full((len(background_BW),), -torch.inf, dtype=torch.float64)
        self._row_B = torch.full((len(background_BW),), NOBODY, dtype=torch.int64)

    def columns(self, keys_KW: torch.Tensor) -> torch.Tensor:
        """Return what `threshold` needs to know of keys that may be added, a column each: here their scores [B, K]."""
        return self._scores(keys_KW)

    def hold(self, rows: Sequence[int]) -> None:
        """Count rows of the arena that are held now, whether they were counted before or not."""
        scores_BK = self._scores(self._arena.keys[list(rows)])
        best = scores_BK.max(dim=1)
        better_B = best.values > self._score_B
        self._score_B = torch.where(better_B, best.values, self._score_B)
        self._row_B = torch.where(better_B, torch.tensor(rows)[best.indices], self._row_B)

    def release(self, rows: Collection[int]) -> None:
        """Forget those of `rows` that nobody holds any more."""
        gone = [row for row in rows if int(self._arena.owners[row]) == NOBODY]
        self._score_B, self._row_B = self._without(gone)

    def move(self, moved: Sequence[int]) -> None:
        """Take the arena's new row numbers."""
        table = torch.tensor([*moved, NOBODY])
        self._row_B = table[self._row_B]

    def threshold(self, columns: torch.Tensor | None = None, leaving: Collection[int] = ()) -> float:
        """Return c for the arena's keys without the rows `leaving` and with more keys, whose columns are given.

        At most the share `rate` of the background scores more than it with some key, unless it is `HIGHEST`.
        """
        score_B = self._without(leaving)[0]
        if columns is not None and columns.shape[1]:
            score_B = torch.maximum(score_B, columns.amax(dim=1))
        return quantile_threshold(score_B, self._allowed)

    def _scores(self, keys_KW: torch.Tensor) -> torch.Tensor:
        return self._background_BW @ keys_KW.double().T

    def _without(self, leaving: Collection[int]) -> tuple[torch.Tensor, torch.Tensor]:
        if not leaving:
            return self._score_B, self._row_B
        lost_B = torch.isin(self._row_B, torch.tensor(list(leaving)))
        score_B, row_B = self._score_B.clone(), self._row_B.clone()
        if not lost_B.any():
            return score_B, row_B
        held_N = self._arena.owners != NOBODY
        held_N[list(leaving)] = False
        rows = held_N.nonzero()[:, 0]
        if not len(rows):
            score_B[lost_B], row_B[lost_B] = -torch.inf, NOBODY
            return score_B, row_B
        best = (self._background_BW[lost_B] @ self._arena.keys[rows].double().T).max(dim=1)
        score_B[lost_B], row_B[lost_B] = best.values, rows[best.indices]
        return score_B, row_B


class RefinedFalseFires(FalseFires):
    """The same where queries are refined: every key has a part in every score, so all are read for each threshold.

    Parameters
    ----------
    background_BW
        [B, W] unit queries, before refinement.
    parameters
        Of the codebook.
    arena
        The keys.
    """

    def __init__(self, background_BW: torch.Tensor, parameters: MethodParameters, arena: KeyArena) -> None:
        super().__init__(background_BW, parameters.false_fire_rate or 0.0, arena)
        self._parameters = parameters
        self._plain_BW = background_BW.float()

    def columns(self, keys_KW: torch.Tensor) -> torch.Tensor:
        """Return the keys themselves, a column each [W, K]."""
        return keys_KW.T

    def hold(self, rows: Sequence[int]) -> None:
        """Count rows: nothing is kept of them."""

    def release(self, rows: Collection[int]) -> None:
        """Forget rows: nothing is kept of them."""

    def move(self, moved: Sequence[int]) -> None:
        """Take new row numbers: nothing is kept of them."""

    def threshold(self, columns: torch.Tensor | None = None, leaving: Collection[int] = ()) -> float:
        """Return c as `FalseFires.threshold`, from scores after refinement."""
        held_N = self._arena.owners != NOBODY
        held_N[list(leaving)] = False
        keys_NW = self._arena.keys[held_N]
        if columns is not None:
            keys_NW = torch.cat([keys_NW, columns.T])
        # Sorted, so that sums over them have one order, and each once: a key that is held already may come again.
        keys_NW = torch.unique(keys_NW, dim=0)
        if not len(keys_NW):
            return LOWEST
        of = self._parameters
        score_B = [
            (refine(part, keys_NW, beta=of.beta, gamma=of.gamma, steps=of.steps, epsilon=of.epsilon) @ keys_NW.T).amax(
                1
            )
            for part in torch.split(self._plain_BW, max(1, _MOST_SCORES // len(keys_NW)))
        ]
        return quantile_threshold(torch.cat(score_B).double(), self._allowed)


def floor_over(score: float) -> float:
    """Return the floor that keeps a prompt silent whose score is this one here, and a little more elsewhere."""
    return min(HIGHEST, score + FLOOR_MARGIN)


def quantile_threshold(score_B: torch.Tensor, allowed: int) -> float:
    """Return the least threshold that at most `allowed` of the scores are greater than, rounded up."""
    least = float(score_B.topk(allowed + 1).values[-1])
    return LOWEST if math.isinf(least) else min(HIGHEST, max(LOWEST, math.ceil(least * _DIGITS) / _DIGITS))
