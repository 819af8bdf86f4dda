"""Editing: from submitted edits and the state of their codebook to verified entries, or the reasons why not.

Many edits of one codebook are computed together and decided in order, so each gets what it would get alone.
Combines contexts, the clean pass, judging, training and verification; does not know the registry's store.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from horen_vllm.artifact import EntryArtifact, EntryManifest
from horen_vllm.core.admission import AdmissionKind
from horen_vllm.core.presets import ValueMode
from horen_vllm.editor.codebook.book import EditorCodebook
from horen_vllm.editor.codebook.collisions import collisions
from horen_vllm.editor.codebook.grace_batch import GraceBatch
from horen_vllm.editor.codebook.judge import Judge
from horen_vllm.editor.codebook.prospect import Captured, Prospect, Verdict
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.passes import EditPasses
from horen_vllm.editor.prepare import PreparedEdit
from horen_vllm.editor.training.train import Progress, TrainedValue
from horen_vllm.editor.training.verify import require_captured
from horen_vllm.errors import HorenError
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EditRecord
from horen_vllm.registry.preview_records import Collision

_AT_THE_PROMPT: Final = frozenset({ValueMode.LAST, ValueMode.REPLACE})
"""Modes that write at the prompt's last token only, so that no end is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditOutcome:
    """What became of an edit against one revision."""

    kind: AdmissionKind
    base_revision: int
    """Revision that it was admitted and verified against."""
    artifact: EntryArtifact | None = None
    """The new entry; None for SAME."""
    same_as: EditId | None = None
    """The edit that already says it (SAME)."""
    alias_of: EditId | None = None
    """The edit whose value the entry reuses (ALIAS)."""
    supersedes: tuple[EditId, ...] = ()
    """Edits whose entries it replaces (SUPERSEDE)."""
    overlaps: tuple[EditId, ...] = ()
    """Edits with another target into whose basin one of its contexts falls."""
    threshold: float | None = None
    """The codebook's threshold once the entry is in it; None: as it is."""
    already_answered: bool = False
    """Whether the base model gives the target in every context already, with a loss below the preset's bound."""


class EditBatch:
    """Edits of one codebook that are made together.

    1. the clean pass of all their contexts runs when the batch is made;
    2. `train` trains the values that the codebook, as it is, calls for;
    3. `make` decides one edit after the other, in order, against the codebook as it is by then.

    Parameters
    ----------
    editable
        The base model.
    records
        The edits, by sequence.
    book
        The codebook that they are decided against.
    memory
        Bounds what is computed at once.
    """

    def __init__(
        self, editable: EditableModel, records: Sequence[EditRecord], book: EditorCodebook, memory: MemoryLimit
    ) -> None:
        self._editable = editable
        self._parameters = book.parameters
        memory.recover()
        self._passes = EditPasses(editable, records, book.keying, memory)
        self._edits = self._passes.edits
        self._values: dict[int, TrainedValue | HorenError] = {}
        self.against(book)

    def against(self, book: EditorCodebook) -> None:
        """Decide against this copy of the codebook from now on; what was trained stays."""
        self._book = book
        prepared = [edit for edit in self._edits if isinstance(edit, PreparedEdit)]
        court = Judge if book.parameters.radius is None else GraceBatch
        self._judge: Judge | GraceBatch = court(book, [edit.prospect for edit in prepared])

    def train(self, progress: Progress = lambda _steps, _left: None) -> int:
        """Train every value that is likely to be needed, together; return how many."""
        wanted = self._wanted()
        self._train(wanted, progress)
        return len(wanted)

    def make(self, index: int) -> EditOutcome:
        """Admit and verify one edit against the codebook as it is now, training its value if that is still to do.

        The caller adds the new entry to the codebook (`EditorCodebook.add`) before it makes the next one.

        Raises
        ------
        InvalidArgument
            When the edit itself is wrong (`contexts.build_contexts`).
        EditFailed
            When it cannot be brought about (`judge.Judge.verdict`, `verify`, `memory`).
        """
        edit = self._passes.prepared(index)
        verdict = self._judge.verdict(self._position(index))
        if verdict.kind is AdmissionKind.SAME:
            return EditOutcome(kind=verdict.kind, base_revision=self._book.revision, same_as=verdict.same_as)
        lender = self._lender(index, edit, verdict)
        if isinstance(self._judge, GraceBatch) and verdict.alias_of and lender is None:
            # The ball of an alias lies around the lender's key, which this edit cannot use.
            verdict = self._judge.verdict(self._position(index), own_key=True)
        value = lender or self._own_value(index)
        self._check_captured(index, verdict.captured, value)
        fresh = AdmissionKind.NEW if verdict.kind is AdmissionKind.ALIAS else verdict.kind
        return EditOutcome(
            kind=AdmissionKind.ALIAS if lender else fresh,
            base_revision=self._book.revision,
            artifact=self._artifact(self._judge.prospects[self._position(index)], edit, value, verdict),
            alias_of=verdict.alias_of if lender else None,
            supersedes=verdict.supersedes,
            overlaps=verdict.overlaps,
            threshold=verdict.threshold,
            already_answered=lender is None and value.steps == 0 and not self._parameters.uniform_start,
        )

    def judged(self, index: int) -> Verdict:
        """Return what would become of an edit, as far as that can be told without its value; raises as `make`."""
        self._passes.prepared(index)
        return self._judge.verdict(self._position(index))

    def collisions(self, index: int) -> tuple[Collision, ...]:
        """Return whose entries the texts of an edit match now, or nearly."""
        self._passes.prepared(index)
        return collisions(self._book, self._judge.prospects[self._position(index)])

    def _wanted(self) -> list[int]:
        """Return the edits that the codebook as it is calls for a value of, each said thing once."""
        wanted: dict[tuple[str, tuple[int, ...]], int] = {}
        for index, edit in enumerate(self._edits):
            if isinstance(edit, PreparedEdit) and self._needs_value(index):
                wanted.setdefault((edit.prospect.normalised_prompt, edit.prospect.target_ids), index)
        return list(wanted.values())

    def _needs_value(self, index: int) -> bool:
        try:
            kind = self._judge.verdict(self._position(index)).kind
        except HorenError:
            return False
        return kind in {AdmissionKind.NEW, AdmissionKind.SUPERSEDE}

    def _train(self, indexes: Sequence[int], progress: Progress = lambda _steps, _left: None) -> None:
        self._values |= dict(zip(indexes, self._passes.train(indexes, progress), strict=True))

    def _own_value(self, index: int) -> TrainedValue:
        if index not in self._values:
            self._train([index])
        value = self._values[index]
        if isinstance(value, HorenError):
            raise value
        self._passes.require_target(index, value)
        return value

    def _lender(self, index: int, edit: PreparedEdit, verdict: Verdict) -> TrainedValue | None:
        """Return the value of the entry it is an alias of, if that gives the target in the new contexts too."""
        if verdict.alias_of is None:
            return None
        lent = self._book.entry(verdict.alias_of).artifact
        if (lent.manifest.span, lent.manifest.chunk, lent.manifest.rank) != edit.layout.key:
            return None
        checked = self._passes.check(index, lent.values, edit.layout)
        return checked if checked.greedy_ok else None

    def _check_captured(self, index: int, captured: Sequence[Captured], value: TrainedValue) -> None:
        if captured:
            require_captured(captured, self._passes.check_captured(index, captured, value.values))

    def _position(self, index: int) -> int:
        """Return the number of an edit among those that could be prepared."""
        return sum(isinstance(edit, PreparedEdit) for edit in self._edits[:index])

    def _artifact(self, prospect: Prospect, edit: PreparedEdit, value: TrainedValue, verdict: Verdict) -> EntryArtifact:
        manifest = EntryManifest(
            edit_id=prospect.edit_id,
            fingerprint=self._editable.fingerprint,
            site=self._editable.site,
            value_mode=self._parameters.value_mode,
            span=edit.layout.span,
            chunk=edit.layout.chunk,
            rank=edit.layout.rank,
            target_ids=prospect.target_ids,
            normalised_prompt=prospect.normalised_prompt,
            trained_end=self._parameters.train_end and self._parameters.value_mode not in _AT_THE_PROMPT,
            loss=value.loss,
            steps=value.steps,
            probe_ids=prospect.contexts[0].prompt_ids,
            contexts=tuple(context.as_key_context() for context in prospect.contexts),
            anchors=tuple(" ".join(anchor) for anchor in prospect.anchors),
            floor=verdict.floor,
        )
        ball = verdict.ball
        if ball is None:
            return EntryArtifact(keys=prospect.keys, values=value.values, manifest=manifest)
        own = torch.equal(ball.key, self._book.keying.keys(prospect.keys)[0])
        manifest = replace(manifest, radius=ball.radius, splits=ball.splits, contexts=manifest.contexts if own else ())
        return EntryArtifact(keys=ball.key[None], values=value.values, manifest=manifest)
