"""Arms of the comparison: a preset as a codebook of entries without values, with subjects given or not.

Shapes: Q contexts that are asked, E entries, D width of the site's input, W width of a key.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from horen_vllm.artifact import KeyContext
from horen_vllm.core.anchors import AnchorTable
from horen_vllm.core.masks import SubjectMask
from horen_vllm.core.match import NO_ENTRY, KeyTable, route_tensors
from horen_vllm.editor.calibration.calibrated import CalibratedPreset
from horen_vllm.editor.calibration.measures import Routes
from horen_vllm.editor.calibration.samples import Sample, subject_anchors
from horen_vllm.editor.codebook.arena import KeyArena
from horen_vllm.editor.codebook.false_fires import false_fires_of
from horen_vllm.editor.contexts import EditContext
from horen_vllm.editor.spoken import Reader

Means = Callable[[Sequence[KeyContext]], torch.Tensor]
"""Runs the model: the averaged site inputs [contexts, D] of contexts."""


class Arm(Protocol):
    """One way to route."""

    @property
    def threshold(self) -> float | None:
        """c, which the number of keys decides where it follows the background; None where there is no cosine."""
        ...

    def routes(self, asked: Sample) -> Routes:
        """Return what contexts find."""
        ...


class OpenArm:
    """Entries without anchors: the whole query decides.

    Parameters
    ----------
    preset
        The preset, whose threshold may follow its background.
    entries
        One text for each entry.
    """

    def __init__(self, preset: CalibratedPreset, entries: Sample) -> None:
        self._keying = preset.keying
        self._table = _table(preset, entries)
        self.threshold = _threshold(preset, self._table)

    def routes(self, asked: Sample) -> Routes:
        """Return what contexts find."""
        found = route_tensors(asked.queries(self._keying), self._table, self._keying.parameters)
        nothing = torch.full_like(found.score, -torch.inf)
        return Routes(
            asked.texts, found.score - self.threshold, found.best, nothing, torch.full_like(found.best, NO_ENTRY)
        )


class SubjectArm:
    """Entries with their subjects given: where one occurs its entries compete, without the subject's tokens.

    Parameters
    ----------
    preset
        A preset with anchors.
    entries
        One text for each entry, its subject masked.
    subjects
        Subject of each entry; one without has no anchors.
    reader, means
        Read what is asked.
    """

    def __init__(
        self,
        preset: CalibratedPreset,
        entries: Sample,
        subjects: Sequence[str | None],
        reader: Reader,
        means: Means,
    ) -> None:
        self._keying, self._reader, self._means = preset.keying, reader, means
        anchors = {at: found for at, name in enumerate(subjects) if (found := subject_anchors(name))}
        self._anchors = AnchorTable(anchors)
        self._table = _table(preset, entries)
        free = torch.tensor([at for at in range(len(subjects)) if at not in anchors], dtype=torch.int64)
        self._open = OpenArm(preset, entries.where(torch.isin(entries.texts, free)))
        self.threshold = preset.parameters.anchored_threshold

    def routes(self, asked: Sample) -> Routes:
        """Return what contexts find."""
        found = self._open.routes(asked)
        groups: dict[tuple[int, SubjectMask], list[int]] = {}
        for row, context in enumerate(asked.contexts):
            for entry, mask in self._hits(context).items():
                groups.setdefault((row, mask), []).append(entry)
        queries = self._queries([replace(asked.contexts[row], masked=it.tokens, words=it.words) for row, it in groups])
        for (row, _), members, query in zip(groups, groups.values(), queries, strict=True):
            self._compete(row, members, query, found)
        return found

    def _hits(self, context: EditContext) -> dict[int, SubjectMask]:
        places = self._anchors.find(context.words)
        if not places:
            return {}
        text = self._reader.text(context)
        return {entry: self._reader.mask(text, context.span, at) for entry, at in places.items()}

    def _queries(self, contexts: Sequence[EditContext]) -> torch.Tensor:
        means = self._means([context.as_key_context() for context in contexts])
        return self._keying.queries(means, [context.words for context in contexts])

    def _compete(self, row: int, members: Sequence[int], query_W: torch.Tensor, found: Routes) -> None:
        """Let the entries that share a query compete for a context."""
        chosen = torch.isin(self._table.owners, torch.tensor(members))
        part = KeyTable(self._table.keys[chosen], self._table.owners[chosen], self._table.sequences)
        best = route_tensors(query_W[None], part, self._keying.parameters)
        margin = best.score[0] - self.threshold
        if margin > found.hit_margin[row]:
            found.hit_margin[row], found.hit_entry[row] = margin, best.best[0]


def _table(preset: CalibratedPreset, entries: Sample) -> KeyTable:
    numbers = torch.arange(int(entries.texts.max()) + 1 if len(entries.texts) else 0)
    return KeyTable(preset.keying.keys(entries.queries(preset.keying)), entries.texts, numbers)


def _threshold(preset: CalibratedPreset, table: KeyTable) -> float:
    """Return c for these keys: the preset's own, or what its background calls for."""
    if preset.background is None or preset.parameters.false_fire_rate is None:
        return preset.parameters.threshold
    arena = KeyArena(table.keys.shape[1])
    fires = false_fires_of(preset.background, preset.parameters, arena)
    rows = [
        row
        for key, owner in zip(table.keys, table.owners.tolist(), strict=True)
        for row in arena.hold(key[None], owner)
    ]
    if rows:
        fires.hold(rows)
    return fires.threshold()
