"""The trial of one edit: which prompts would go to it, which must and which must not.

Knows one edit and the line-up of keys that it competes with; every failure is an `EditFailed` with its numbers.
"""

import math
from dataclasses import dataclass, replace

import torch

from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.codebook.arena import NOBODY
from horen_vllm.editor.codebook.book import EditorCodebook
from horen_vllm.editor.codebook.false_fires import HIGHEST, LOWEST, floor_over
from horen_vllm.editor.codebook.lineup import TIE_MARGIN, Lineup, Ruling
from horen_vllm.editor.codebook.prospect import Captured, Prospect
from horen_vllm.editor.contexts import EditContext
from horen_vllm.editor.failure import EditFailed, quoted


@dataclass(frozen=True, slots=True)
class Trial:
    """One edit against one state of its codebook."""

    book: EditorCodebook
    prospect: Prospect
    lineup: Lineup
    threshold: float
    """The codebook's once the edit is in it."""

    @property
    def _then(self) -> MethodParameters:
        return replace(self.book.parameters, threshold=self.threshold)

    def basins(self) -> tuple[int, ...]:
        """Return the entries that the edit's contexts match now, in the contexts' order."""
        ruling = self.lineup.now.rule(self.prospect.keys, self.book.parameters)
        return tuple(dict.fromkeys(entry for entry in ruling.entry if entry != NOBODY))

    def check_routing(self) -> float | None:
        """Refuse an edit whose prompts would not go where they must, once it is in the codebook.

        Where the threshold follows the codebook, must-not-fire prompts are kept silent by a floor of the entry's own,
        which is returned.

        Raises
        ------
        EditFailed
            ``key_not_matched``, when one of its own contexts would not reach it; ``must_not_fire_fires``, when a
            must-not-fire prompt would, and could not be kept from it.
        """
        # One pass for both: with refinement it reads every key of the codebook.
        queries = torch.cat([self.prospect.keys, self.prospect.foreign_queries])
        ruling = self.lineup.then.rule(queries, self._then)
        self._check_own(ruling)
        if self.book.false_fires is None:
            self._check_foreign(ruling, len(self.prospect.contexts), self.prospect.sequence)
            return None
        return self._floor(ruling, len(self.prospect.contexts))

    def _floor(self, ruling: Ruling, first: int) -> float | None:
        """Return the score up to which the edit may not fire: its own, for the threshold may come down."""
        floor = LOWEST
        # Refined, its own prompts may score less than with their keys.
        own = min(ruling.score[:first])
        for index, context in enumerate(self.prospect.foreign, start=first):
            if ruling.best[index] == self.prospect.sequence:
                if ruling.score[index] >= HIGHEST or floor_over(ruling.score[index]) >= own:
                    message = f"{named(context)} must not fire, but scores as much as the edit's own prompts."
                    raise EditFailed(message, code="must_not_fire_fires")
                floor = max(floor_over(ruling.score[index]), floor)
        return floor if floor > LOWEST else None  # no threshold comes down to less

    def check_silent(self, entry: int) -> None:
        """Refuse an edit that says what `entry` says already, if one of its must-not-fire prompts reaches that one.

        Raises
        ------
        EditFailed
            ``must_not_fire_fires``.
        """
        self._check_foreign(self.lineup.now.rule(self.prospect.foreign_queries, self.book.parameters), 0, entry)

    def _check_own(self, ruling: Ruling) -> None:
        prospect, threshold = self.prospect, self.threshold
        for index, context in enumerate(prospect.contexts):
            if ruling.entry[index] != prospect.sequence:
                whose = "" if ruling.best[index] == prospect.sequence else " with another entry"
                message = (
                    f"{named(context)} does not reach its own key: best score {ruling.score[index]:.4f}{whose}, "
                    f"threshold {threshold:.4f}."
                )
                raise EditFailed(message, code="key_not_matched")

    def _check_foreign(self, ruling: Ruling, first: int, entry: int) -> None:
        threshold = self.book.parameters.threshold
        for index, context in enumerate(self.prospect.foreign, start=first):
            if ruling.entry[index] == entry:
                message = (
                    f"{named(context)} must not fire, but scores {ruling.score[index]:.4f} (threshold {threshold:.4f})."
                )
                raise EditFailed(message, code="must_not_fire_fires")

    def captured(self) -> tuple[Captured, ...]:
        """Return the contexts of earlier entries with the same target that would go over to this edit.

        Raises
        ------
        EditFailed
            ``earlier_entry_silenced``, when another context of an earlier entry would be answered otherwise than now.
        """
        touched = self._touched()
        queries = self.lineup.keys(touched)
        before = self.lineup.now.rule(queries, self.book.parameters)
        after = self.lineup.then.rule(queries, self._then)
        rows = self.lineup.rows[touched].tolist()
        owners = self.lineup.without[touched].tolist()
        places = [(owner, self.book.rows(owner).index(row)) for owner, row in zip(owners, rows, strict=True)]
        captured = []
        for index in sorted(range(len(rows)), key=places.__getitem__):
            owner = owners[index]
            if self._silenced(owner, before, after, index):
                raise self._silencing(owner, before.score[index], after.score[index])
            if after.entry[index] == self.prospect.sequence:
                edit_id = self.book.edit_id(owner)
                captured.append(Captured(edit_id, self.book.context(owner, rows[index])))
        return tuple(captured)

    def _touched(self) -> torch.Tensor:
        """Return the places of the keys of earlier entries whose decision may change."""
        earlier = self.lineup.without != NOBODY
        turn = largest_turn(self.book.parameters)
        # A key's own score is at least cos(turn), so below that no key of an earlier entry can fall silent.
        if not self.book.parameters.steps or self.threshold < math.cos(turn) - TIE_MARGIN:
            earlier &= self.lineup.closeness(self.prospect.keys) >= reach(turn)
        return earlier.nonzero()[:, 0]

    def _silenced(self, owner: int, before: Ruling, after: Ruling, index: int) -> bool:
        now, then = before.entry[index], after.entry[index]
        if then == self.prospect.sequence:
            return self.book.existing[owner].target_ids != self.prospect.target_ids
        if now in (NOBODY, then):
            return False
        return then == NOBODY or self.book.existing[then].target_ids != self.book.existing[now].target_ids

    def _silencing(self, owner: int, before: float, after: float) -> EditFailed:
        message = (
            f"a prompt of the earlier edit {self.book.edit_id(owner)} would no longer be answered as it is: "
            f"its best score is {before:.4f} now and {after:.4f} with this edit, threshold {self.threshold:.4f}."
        )
        return EditFailed(message, code="earlier_entry_silenced")


def largest_turn(parameters: MethodParameters) -> float:
    """Return the angle (radians) by which refinement can turn a query at most: ``M arcsin(gamma / (1 - gamma))``."""
    if parameters.gamma >= 0.5 and parameters.steps:
        return math.pi
    return min(math.pi, parameters.steps * math.asin(parameters.gamma / (1 - parameters.gamma)))


def reach(turn: float) -> float:
    """Return the cosine to a new key below which an earlier key cannot go over to it.

    A key that goes over is, refined, no farther from the new key than from itself (but for the margin of ties), and
    at most `turn` from itself.
    """
    farthest = math.acos(max(-1.0, math.cos(turn) - 2 * TIE_MARGIN))
    return math.cos(min(math.pi, turn + farthest)) - TIE_MARGIN


def named(context: EditContext) -> str:
    """Return a context as a sentence speaks of it."""
    return f"the {context.form} form of {quoted(context.text)}"
