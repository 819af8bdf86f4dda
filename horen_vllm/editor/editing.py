"""Editing: from a submitted edit and the state of its codebook to a verified entry, or the reason why not.

Combines contexts, queries, admission, training and verification; does not know the registry's store.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from horen_vllm.artifact import EntryArtifact, EntryManifest
from horen_vllm.core.admission import Admission, AdmissionKind, Candidate, admit, normalise_prompt
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.values import value_span
from horen_vllm.editor.capture import queries
from horen_vllm.editor.codebook import CodebookState
from horen_vllm.editor.contexts import EditContext, build_contexts, prompt_forms, target_ids
from horen_vllm.editor.model import EditableModel
from horen_vllm.editor.train import TrainedValue, train_value, value_loss
from horen_vllm.editor.verify import check_routing, check_target, reaches_target
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EditRecord


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


def edit(
    editable: EditableModel, state: CodebookState, record: EditRecord, parameters: MethodParameters
) -> EditOutcome:
    """Make one edit against one state of its codebook; see `EditSession.against`."""
    return EditSession(editable, record, parameters).against(state)


class EditSession:
    """One edit, with everything that does not depend on the codebook computed at most once.

    So a codebook that moves while a value is trained costs another admission and verification, no training.

    Parameters
    ----------
    editable
        The base model.
    record
        The edit.
    parameters
        The codebook's method parameters.

    Raises
    ------
    InvalidArgument
        When the edit itself is wrong (`contexts.build_contexts`).
    """

    def __init__(self, editable: EditableModel, record: EditRecord, parameters: MethodParameters) -> None:
        self._editable = editable
        self._record = record
        self._parameters = parameters
        self._target_ids = target_ids(editable, record.spec)
        self._contexts = build_contexts(editable, record.spec, parameters)

    def against(self, state: CodebookState) -> EditOutcome:
        """Admit the edit to `state`, train its value where none can be reused, and verify the entry.

        Raises
        ------
        EditFailed
            ``key_not_matched``, ``must_not_fire_fires`` or ``target_not_reached``.
        """
        admission = self._admit(state)
        if admission.kind is AdmissionKind.SAME:
            assert admission.entry is not None
            same_as = state.entries[admission.entry].ref.edit_id
            return EditOutcome(kind=admission.kind, base_revision=state.revision, same_as=same_as)
        # Routing is cheap and needs no value, so a hopeless key fails before the training.
        self._check_routing(state, admission.supersedes)
        borrowed = self._borrow(state, admission)
        alias_of = state.entries[admission.entry].ref.edit_id if borrowed and admission.entry is not None else None
        new = AdmissionKind.NEW if admission.kind is AdmissionKind.ALIAS else admission.kind
        return EditOutcome(
            kind=AdmissionKind.ALIAS if borrowed else new,
            base_revision=state.revision,
            artifact=self._artifact(borrowed or self._trained),
            alias_of=alias_of,
            supersedes=state.edit_ids(admission.supersedes),
            overlaps=state.edit_ids(admission.overlaps),
        )

    @cached_property
    def _keys(self) -> torch.Tensor:
        """[contexts, d_in] float32: keys are queries before refinement (section 2.3)."""
        return queries(self._editable, self._contexts, self._parameters)

    @cached_property
    def _foreign(self) -> tuple[tuple[EditContext, ...], torch.Tensor]:
        """The must-not-fire prompts in all forms, with their queries."""
        texts = self._record.spec.must_not_fire
        parameters = self._parameters
        contexts = tuple(context for text in texts for context in prompt_forms(self._editable, text, parameters))
        return contexts, queries(self._editable, contexts, parameters)

    @cached_property
    def _trained(self) -> TrainedValue:
        """The value of its own, already checked in every context."""
        trained = train_value(self._editable, self._contexts, self._target_ids, self._parameters)
        check_target(self._editable, self._contexts, self._target_ids, trained, self._parameters)
        return trained

    @property
    def _normalised_prompt(self) -> str:
        return normalise_prompt(self._record.spec.prompt)

    def _admit(self, state: CodebookState) -> Admission:
        candidate = Candidate(self._normalised_prompt, self._target_ids, self._keys)
        existing = [entry.as_existing() for entry in state.entries]
        return admit(candidate, existing, state.key_table(self._editable.d_in), self._parameters)

    def _check_routing(self, state: CodebookState, without: tuple[int, ...]) -> None:
        table, candidate = state.key_table_with(self._keys, self._record.sequence, without)
        own = (self._contexts, self._keys)
        check_routing(table, candidate, own, self._foreign, self._parameters)

    def _borrow(self, state: CodebookState, admission: Admission) -> EntryArtifact | None:
        """Return the lender's entry if its value gives the target in the new contexts too."""
        if admission.kind is not AdmissionKind.ALIAS or admission.entry is None:
            return None
        lender = state.entries[admission.entry].artifact
        arguments = (self._editable, self._contexts, self._target_ids, lender.values, self._parameters)
        return lender if reaches_target(*arguments) else None

    def _artifact(self, source: EntryArtifact | TrainedValue) -> EntryArtifact:
        """Return the entry with the values of `source`: a lender's, measured here, or trained ones."""
        if isinstance(source, TrainedValue):
            loss, steps = source.loss, source.steps
        else:
            arguments = (self._editable, self._contexts, self._target_ids, source.values, self._parameters)
            loss, steps = value_loss(*arguments), 0
        parameters = self._parameters
        manifest = EntryManifest(
            edit_id=self._record.edit_id,
            fingerprint=self._editable.fingerprint,
            site=self._editable.site,
            value_mode=parameters.value_mode,
            span=value_span(len(self._target_ids), parameters),
            target_ids=self._target_ids,
            normalised_prompt=self._normalised_prompt,
            trained_end=parameters.train_end and parameters.value_mode is not ValueMode.LAST,
            loss=loss,
            steps=steps,
            probe_ids=self._contexts[0].prompt_ids,
        )
        return EntryArtifact(keys=self._keys, values=source.values, manifest=manifest)
