"""GRACE in the comparison: entries get their keys and radii one after the other, each with an answer of its own."""

from collections.abc import Iterator

import torch

from horen_vllm.core.admission import Existing
from horen_vllm.core.match import NO_ENTRY
from horen_vllm.editor.calibration.calibrated import CalibratedPreset
from horen_vllm.editor.calibration.measures import Routes
from horen_vllm.editor.calibration.samples import Sample
from horen_vllm.editor.codebook.balls import GraceEntry, effective_radii
from horen_vllm.editor.codebook.grace import GraceEdit, GraceJudge
from horen_vllm.editor.failure import EditFailed


class GraceArm:
    """Entries with radii: the nearest key decides.

    A margin is by how much of its entry's radius a query lies within it, so that moving thresholds scales all radii.

    Parameters
    ----------
    preset
        A preset with a radius.
    entries
        One text for each entry; one that could not be published is left out.
    """

    threshold = None

    def __init__(self, preset: CalibratedPreset, entries: Sample) -> None:
        made = dict(_published(preset.parameters.radius or 0.0, entries))
        radii = effective_radii((str(row), entry.radius, entry.splits) for row, entry in made.items())
        self._rows = torch.tensor(list(made), dtype=torch.int64)
        self._radii = torch.tensor([radii[str(row)] for row in made], dtype=torch.float64)
        self._means = entries.means.double()[self._rows]
        self._texts = entries.texts[self._rows]

    def routes(self, asked: Sample) -> Routes:
        """Return what contexts find."""
        nothing = torch.full((len(asked.texts),), -torch.inf, dtype=torch.float64)
        none = torch.full_like(asked.texts, NO_ENTRY)
        if not len(self._rows):
            return Routes(asked.texts, nothing, none, nothing, none)
        nearest = torch.cdist(asked.means.double(), self._means).min(dim=1)
        margin = 1.0 - nearest.values / self._radii[nearest.indices]
        return Routes(asked.texts, margin, self._texts[nearest.indices], nothing, none)


def _published(radius: float, entries: Sample) -> Iterator[tuple[int, GraceEntry]]:
    """Yield the entries that can be published, in order, by their row."""
    keys = torch.empty(0, entries.means.shape[1] + 2)
    made: list[GraceEntry] = []
    for row, query in enumerate(entries.means):
        edit = GraceEdit(sequence=row, normalised_prompt=str(row), target_ids=(row,), query=query)
        try:
            ball = GraceJudge(radius, keys, made).verdict(edit).ball
        except EditFailed:
            continue
        assert ball is not None, "no two entries have the same answer"
        keys = torch.cat([keys, ball.key[None]])
        made.append(GraceEntry(Existing(str(row), row, str(row), (row,)), len(made), ball.radius, ball.splits))
        yield row, made[-1]
