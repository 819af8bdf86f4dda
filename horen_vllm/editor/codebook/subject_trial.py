"""The trial of one edit with anchors: which prompts would go to it, which must and which must not.

The counterpart of `trial` for entries that compete by subject; every failure is an `EditFailed` with its numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from horen_vllm.artifact import KeyContext
from horen_vllm.editor.codebook.arena import NOBODY
from horen_vllm.editor.codebook.book import EditorCodebook
from horen_vllm.editor.codebook.context_names import query_name
from horen_vllm.editor.codebook.false_fires import HIGHEST, floor_over
from horen_vllm.editor.codebook.prospect import Captured, Prospect
from horen_vllm.editor.codebook.subjects import AnchoredEntry, SubjectField, SubjectRuling
from horen_vllm.editor.codebook.trial import named
from horen_vllm.editor.failure import EditFailed


@dataclass(slots=True)
class SubjectTrial:
    """One edit with anchors against one state of its codebook."""

    book: EditorCodebook
    subjects: SubjectField
    prospect: Prospect

    _new: AnchoredEntry = field(init=False)
    _asked: dict[bytes, torch.Tensor] = field(init=False)
    """Queries of the edit's own prompts, and those that the model was asked for."""

    def __post_init__(self) -> None:
        """Take note of what is known of the edit."""
        own, keying = self.prospect, self.book.keying
        self._new = AnchoredEntry(own.sequence, own.anchors, own.keys)
        # Its own last: a prompt that must not fire may be one of them.
        queries = torch.cat([own.foreign_queries, own.keys])
        self._asked = {
            query_name(keying, context.as_key_context(), context.words): query
            for context, query in zip(own.foreign + own.contexts, queries, strict=True)
        }

    def basins(self) -> tuple[int, ...]:
        """Return the entries with anchors that the edit's contexts match now, in the contexts' order."""
        found = [self._rule(context.as_key_context()).entry for context in self.prospect.contexts]
        return tuple(dict.fromkeys(entry for entry in found if entry != NOBODY))

    def check_silent(self, entry: int) -> None:
        """Refuse an edit that says what `entry` says already, if one of its must-not-fire prompts reaches that one.

        Raises
        ------
        EditFailed
            ``must_not_fire_fires``.
        """
        for context in self.prospect.foreign:
            ruling = self._rule(context.as_key_context())
            if ruling.entry == entry:
                raise self._firing(named(context), ruling.score)

    def floor(self, supersedes: Sequence[int]) -> float | None:
        """Return the score up to which the edit may not fire, so that its must-not-fire prompts stay silent.

        Raises
        ------
        EditFailed
            ``must_not_fire_fires``, when its own prompts could not fire either.
        """
        floor = None
        for context in self.prospect.foreign:
            ruling = self._rule(context.as_key_context(), supersedes, self._new)
            if ruling.best == self.prospect.sequence:
                if ruling.score >= HIGHEST:
                    raise self._firing(named(context), ruling.score)
                floor = max(floor_over(ruling.score), -1.0 if floor is None else floor)
        return floor

    def check_routing(self, supersedes: Sequence[int], floor: float | None) -> None:
        """Refuse an edit whose own prompts would not reach it, once it is in the codebook.

        Raises
        ------
        EditFailed
            ``key_not_matched``.
        """
        self._new = replace(self._new, floor=-1.0 if floor is None else floor)
        for context in self.prospect.contexts:
            ruling = self._rule(context.as_key_context(), supersedes, self._new)
            if ruling.entry != self.prospect.sequence:
                whose = "" if ruling.best == self.prospect.sequence else " with another entry of its subject"
                limit = self.book.parameters.anchored_threshold
                message = (
                    f"{named(context)} does not reach its own key: best score {ruling.score:.4f}{whose}, "
                    f"threshold {limit:.4f}."
                )
                raise EditFailed(message, code="key_not_matched")

    def captured(self, supersedes: Sequence[int]) -> tuple[Captured, ...]:
        """Return the contexts of earlier entries with the same target that would go over to this edit.

        Raises
        ------
        EditFailed
            ``earlier_entry_silenced``, when another context of an earlier entry would be answered otherwise than now.
        """
        captured = []
        for owner, _, context in self.subjects.naming(self.prospect.anchors):
            if owner in supersedes:
                continue
            before, after = self._rule(context), self._rule(context, supersedes, self._new)
            if self._silenced(owner, before, after):
                raise self._silencing(owner, after)
            if after.entry == self.prospect.sequence:
                captured.append(Captured(self.book.edit_id(owner), _unmasked(context)))
        return tuple(captured)

    def _rule(
        self, context: KeyContext, supersedes: Sequence[int] = (), extra: AnchoredEntry | None = None
    ) -> SubjectRuling:
        return self.subjects.rule(context, without=supersedes, extra=extra, asked=self._asked)

    def _silenced(self, owner: int, before: SubjectRuling, after: SubjectRuling) -> bool:
        existing = self.book.existing
        if after.entry == self.prospect.sequence:
            return existing[owner].target_ids != self.prospect.target_ids
        # Where no subject decides, an entry without one answers its own prompts.
        then = owner if after.entry == NOBODY and not self.subjects.anchors_of(owner) else after.entry
        if before.entry in (NOBODY, then):
            return False
        return then == NOBODY or existing[then].target_ids != existing[before.entry].target_ids

    def _firing(self, name: str, score: float) -> EditFailed:
        message = f"{name} must not fire, but scores {score:.4f}, as much as the edit's own prompts."
        return EditFailed(message, code="must_not_fire_fires")

    def _silencing(self, owner: int, after: SubjectRuling) -> EditFailed:
        message = (
            f"a prompt of the earlier edit {self.book.edit_id(owner)} names this edit's subject and would no longer be "
            f"answered as it is: it scores {after.score:.4f} with this edit, threshold "
            f"{self.book.parameters.anchored_threshold:.4f}."
        )
        return EditFailed(message, code="earlier_entry_silenced")


def _unmasked(context: KeyContext) -> KeyContext:
    """Return the prompt of a context: what a value is checked on."""
    return replace(context, masked=())
