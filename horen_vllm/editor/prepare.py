"""Preparation: the contexts of many edits, run through one clean pass, before anything is decided about them.

Does not know codebooks; whatever is wrong with an edit itself is found here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from horen_vllm.artifact import KeyContext
from horen_vllm.core.admission import normalise_prompt
from horen_vllm.core.anchors import Anchor
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.codebook.prospect import Captured, Prospect
from horen_vllm.editor.contexts import EditContext, build_contexts, prompt_forms, target_ids
from horen_vllm.editor.failure import EditFailed, quoted
from horen_vllm.editor.forward.clean import CleanRow, Passage, clean_pass, passages
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.spoken import Reader, anchors_of
from horen_vllm.editor.training.adaptor import ValueLayout, value_layout
from horen_vllm.errors import HorenError
from horen_vllm.registry.models import EditRecord


@dataclass(frozen=True, slots=True)
class PreparedEdit:
    """An edit with everything that does not depend on its codebook, its value excepted."""

    prospect: Prospect
    labels: tuple[int, ...]
    """Token that each answer position predicts: the target, then the end where it is trained."""
    layout: ValueLayout
    rows: tuple[CleanRow, ...]
    """What the clean pass kept, one row a context."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """An edit as token ids."""

    record: EditRecord
    target_ids: tuple[int, ...]
    labels: tuple[int, ...]
    contexts: tuple[EditContext, ...]
    foreign: tuple[EditContext, ...]
    anchors: tuple[Anchor, ...]

    @property
    def passages(self) -> list[Passage]:
        return passages(self.contexts, self.labels) + passages(self.foreign)


def prepare_edits(
    editable: EditableModel, records: Sequence[EditRecord], keying: Keying, memory: MemoryLimit
) -> list[PreparedEdit | HorenError]:
    """Return each edit prepared, or what is wrong with it, in order.

    Errors are those of `contexts.build_contexts`, and EditFailed ``out_of_memory`` or ``non_finite_activations``.
    """
    reader = Reader(editable.tokenizer, keying)
    drafts = [_draft(editable, record, keying, reader) for record in records]
    wanted = [row for draft in drafts if isinstance(draft, _Draft) for row in draft.passages]
    rows = iter(clean_pass(editable, wanted, keying.parameters, memory))
    return [
        _prepared(draft, [next(rows) for _ in draft.passages], keying, editable.d_in)
        if isinstance(draft, _Draft)
        else draft
        for draft in drafts
    ]


def clean_captured(
    editable: EditableModel,
    edit: PreparedEdit,
    captured: Sequence[Captured],
    parameters: MethodParameters,
    memory: MemoryLimit,
) -> tuple[CleanRow, ...]:
    """Return the rows of earlier entries' contexts with the labels of `edit`.

    Raises
    ------
    EditFailed
        ``out_of_memory``; ``earlier_entry_silenced``, when an earlier entry does not say what its context is.
    """
    wanted = passages([_context(one) for one in captured], edit.labels)
    return tuple(_present(row) for row in clean_pass(editable, wanted, parameters, memory))


def _context(captured: Captured) -> KeyContext:
    if captured.context is None:
        message = f"a prompt of {captured.edit_id} would reach the new entry, and its entry does not say which."
        raise EditFailed(message, code="earlier_entry_silenced")
    return captured.context


def _draft(editable: EditableModel, record: EditRecord, keying: Keying, reader: Reader) -> _Draft | HorenError:
    spec, parameters = record.spec, keying.parameters
    try:
        ids = target_ids(editable, spec)
        anchors = anchors_of(spec, keying)
        foreign = [context for text in spec.must_not_fire for context in prompt_forms(editable, text, parameters)]
        own = build_contexts(editable, spec, parameters)
        return _Draft(
            record=record,
            target_ids=ids,
            labels=(*ids, editable.end_id) if parameters.train_end else ids,
            contexts=tuple(reader.spoken(context, anchors, own=True) for context in own),
            foreign=tuple(reader.spoken(context, anchors) for context in foreign),
            anchors=anchors,
        )
    except HorenError as exc:
        return exc


def _prepared(draft: _Draft, rows: Sequence[CleanRow | None], keying: Keying, d_in: int) -> PreparedEdit | HorenError:
    try:
        whole = [
            _finite(_present(row), context) for row, context in zip(rows, draft.contexts + draft.foreign, strict=True)
        ]
    except EditFailed as exc:
        return exc
    own, foreign = whole[: len(draft.contexts)], whole[len(draft.contexts) :]
    prospect = Prospect(
        edit_id=draft.record.edit_id,
        sequence=draft.record.sequence,
        normalised_prompt=normalise_prompt(draft.record.spec.prompt),
        target_ids=draft.target_ids,
        contexts=draft.contexts,
        keys=_queries(keying, own, draft.contexts, d_in),
        foreign=draft.foreign,
        foreign_queries=_queries(keying, foreign, draft.foreign, d_in),
        anchors=draft.anchors,
    )
    layout = value_layout(len(draft.target_ids), keying.parameters)
    return PreparedEdit(prospect, draft.labels, layout, tuple(own))


def _queries(keying: Keying, rows: Sequence[CleanRow], contexts: Sequence[EditContext], d_in: int) -> torch.Tensor:
    means = torch.stack([row.mean for row in rows]) if rows else torch.empty(0, d_in)
    return keying.queries(means, [context.words for context in contexts])


def _present(row: CleanRow | None) -> CleanRow:
    if row is None:
        message = "one prompt of the edit with its answer does not fit into memory, not even alone."
        raise EditFailed(message, code="out_of_memory")
    return row


def _finite(row: CleanRow, context: EditContext) -> CleanRow:
    if not row.finite:
        message = (
            f"the model's activations for the {context.form} form of {quoted(context.text)} are not finite numbers."
        )
        raise EditFailed(message, code="non_finite_activations")
    return row
