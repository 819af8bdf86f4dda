"""The line-up: the keys that compete for one edit's queries, before it is in the codebook and with it.

Shapes: B queries, N keys, D width, X keys that only the new edit has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import torch

from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.refine import refine
from horen_vllm.editor.codebook.arena import NOBODY, KeyArena

TIE_MARGIN: Final = 1e-6
"""Scores nearer than this count as equal, and the newest edit wins: rounding must not decide between equal contexts."""

_SCORES: Final = 1 << 24
"""Most scores that are held at once."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """Who gets each query.

    Attributes
    ----------
    entry
        [B] sequence number of the matched entry, or `NOBODY`.
    best
        [B] sequence number of the entry with the best score, matched or not.
    score
        [B] its score; -inf where there are no keys.
    """

    entry: list[int]
    best: list[int]
    score: list[float]


@dataclass(frozen=True, slots=True)
class Field:
    """Keys [N, D] and the sequence number of the entry that each belongs to [N].

    Some entries have a floor, a score up to which they do not fire whatever the threshold.
    """

    keys: torch.Tensor
    owners: torch.Tensor
    floors: Mapping[int, float]

    def rule(self, queries_BD: torch.Tensor, parameters: MethodParameters) -> Ruling:
        """Route queries [B, D] as `core.match` does, but with ties as wide as `TIE_MARGIN`."""
        count = len(queries_BD)
        if not len(self.keys):
            return Ruling([NOBODY] * count, [NOBODY] * count, [-torch.inf] * count)
        ruling = Ruling([], [], [])
        part = max(1, _SCORES // len(self.keys))
        for start in range(0, count, part):
            self._rule(queries_BD[start : start + part], parameters, ruling)
        return ruling

    def _rule(self, queries_BD: torch.Tensor, parameters: MethodParameters, ruling: Ruling) -> None:
        refined_BD = refine(
            queries_BD,
            self.keys,
            beta=parameters.beta,
            gamma=parameters.gamma,
            steps=parameters.steps,
            epsilon=parameters.epsilon,
        )
        scores_BN = refined_BD @ self.keys.T
        score_B = scores_BN.amax(dim=1)
        tied_BN = scores_BN >= score_B[:, None] - TIE_MARGIN
        ruling.best.extend(torch.where(tied_BN, self.owners, NOBODY).amax(dim=1).tolist())
        tied_BN &= scores_BN > parameters.threshold
        entries = torch.where(tied_BN, self.owners, NOBODY).amax(dim=1).tolist()
        scores = score_B.tolist()
        silent = [score <= self.floors.get(entry, -torch.inf) for entry, score in zip(entries, scores, strict=True)]
        ruling.entry.extend(NOBODY if kept else entry for entry, kept in zip(entries, silent, strict=True))
        ruling.score.extend(scores)


class Lineup:
    """Keys of a codebook, and whom they belong to now and once a new edit is in.

    Parameters
    ----------
    arena
        The codebook's keys.
    keys
        [k, D] float32 keys of the new edit.
    sequence
        Its sequence number.
    supersedes
        Entries that it replaces and the rows of their keys.
    near
        Rows that can matter, in any order and repeated; None for all. What the edit touches itself need not be named.
    floors
        Of the entries that have one.
    """

    def __init__(
        self,
        arena: KeyArena,
        keys: torch.Tensor,
        sequence: int,
        supersedes: dict[int, tuple[int, ...]],
        near: torch.Tensor | None,
        floors: Mapping[int, float] | None = None,
    ) -> None:
        self._floors = floors or {}
        places = {key.numpy().tobytes(): (arena.row(key), key) for key in keys}
        shared = [row for row, _ in places.values() if row is not None]
        left = [row for rows in supersedes.values() for row in rows]
        self._sequence = sequence
        self._extra = [key for row, key in places.values() if row is None]
        self.rows = torch.arange(len(arena)) if near is None else torch.unique(torch.cat([near, _index(shared + left)]))
        self._keys = arena.keys if near is None else arena.keys[self.rows]
        self._now = arena.owners[self.rows]
        self.without = self._now.clone()
        """[N] int64: owner of each row of `rows` when the superseded entries have left, or `NOBODY`."""
        newest = _index([arena.newest(row, supersedes) for row in left])
        self.without[torch.searchsorted(self.rows, _index(left))] = newest
        self._shared = torch.searchsorted(self.rows, _index(shared))

    @cached_property
    def now(self) -> Field:
        """The codebook as it is."""
        return self._field(self._keys, self._now)

    @cached_property
    def then(self) -> Field:
        """The codebook with the new edit and without what it supersedes."""
        owners = self.without.clone()
        owners[self._shared] = owners[self._shared].clamp_min(self._sequence)
        held = self._field(self._keys, owners)
        if not self._extra:
            return held
        keys = torch.cat([held.keys, torch.stack(self._extra)])
        return replace(held, keys=keys, owners=torch.cat([held.owners, _index([self._sequence] * len(self._extra))]))

    def _field(self, keys: torch.Tensor, owners: torch.Tensor) -> Field:
        held = owners != NOBODY
        if held.all():
            return Field(keys, owners, self._floors)
        return Field(keys[held], owners[held], self._floors)

    def keys(self, index: torch.Tensor) -> torch.Tensor:
        """Return the keys at some places of `rows`."""
        return self._keys[index]

    def closeness(self, queries_BD: torch.Tensor) -> torch.Tensor:
        """Return each row's highest cosine with any of the queries, [N]."""
        return (self._keys @ queries_BD.T).amax(dim=1)


def _index(numbers: Sequence[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)
