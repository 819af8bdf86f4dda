"""Edits made in batches against a codebook that grows with them, as the worker does it, without a registry."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from horen_vllm.artifact import KeyContext
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.codebook.book import EditorCodebook, Entry
from horen_vllm.editor.codebook.subjects import SubjectField
from horen_vllm.editor.editing import EditBatch, EditOutcome
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.passes import context_means
from horen_vllm.editor.spoken import Reader
from horen_vllm.errors import HorenError
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId
from horen_vllm.registry.models import EditRecord, EditSpec, EditState, EntryRef

MIB = 2**20


def edit_record(prompt: str, target: str, *, sequence: int = 1, **spec: Any) -> EditRecord:
    now = datetime.now(UTC)
    return EditRecord(
        edit_id=EditId(f"e{sequence}"),
        codebook=CodebookName(DEFAULT_TENANT, "facts"),
        sequence=sequence,
        spec=EditSpec(prompt=prompt, target=target, **spec),
        state=EditState.TRAINING,
        reason_code=None,
        reason=None,
        attempt=1,
        artifact=None,
        same_as=None,
        alias_of=None,
        supersedes=(),
        overlaps=(),
        published_revision=None,
        active=False,
        created_at=now,
        updated_at=now,
        published_at=None,
    )


class Book:
    """A codebook whose entries stay in memory.

    Parameters
    ----------
    editable
        The base model.
    parameters
        The codebook's, or how it makes queries.
    memory
        Bounds what is computed at once.
    background
        Queries that its threshold follows.
    """

    def __init__(
        self,
        editable: EditableModel,
        parameters: MethodParameters | Keying,
        memory: MemoryLimit | None = None,
        background: torch.Tensor | None = None,
    ) -> None:
        self.editable = editable
        self.memory = memory or MemoryLimit(64 * MIB)
        self.entries: dict[str, Entry] = {}
        keying = parameters if isinstance(parameters, Keying) else Keying(parameters)

        def ask(contexts: Sequence[KeyContext], words: Sequence[Sequence[str]]) -> torch.Tensor:
            return keying.queries(context_means(editable, contexts, keying.parameters, self.memory), words)

        self.copy = EditorCodebook(
            keying,
            keying.width(editable.d_in),
            lambda ref: self.entries[ref.edit_id].artifact,
            background=background,
            subjects=SubjectField(keying.parameters, Reader(editable.tokenizer, keying), ask)
            if keying.parameters.anchors
            else None,
        )
        self.copy.update(1, [], [])

    def batch(self, records: Sequence[EditRecord]) -> EditBatch:
        return EditBatch(self.editable, records, self.copy, self.memory)

    def add(self, record: EditRecord, outcome: EditOutcome) -> None:
        assert outcome.artifact is not None
        ref = EntryRef(edit_id=record.edit_id, sequence=record.sequence, artifact=f"{record.sequence:064x}")
        self.entries[record.edit_id] = Entry(ref, outcome.artifact)
        self.copy.add(self.entries[record.edit_id], outcome.supersedes, outcome.threshold)

    def make(self, records: Sequence[EditRecord], size: int = 1) -> list[EditOutcome | HorenError]:
        """Make the edits in batches of `size`, as far as they can be made."""
        outcomes: list[EditOutcome | HorenError] = []
        for start in range(0, len(records), size):
            chunk = records[start : start + size]
            batch = self.batch(chunk)
            batch.train()
            outcomes += [self._one(batch, index, record) for index, record in enumerate(chunk)]
        return outcomes

    def edit(self, record: EditRecord) -> EditOutcome:
        """Make one edit, or raise what is wrong with it."""
        [outcome] = self.make([record])
        if isinstance(outcome, HorenError):
            raise outcome
        return outcome

    def _one(self, batch: EditBatch, index: int, record: EditRecord) -> EditOutcome | HorenError:
        try:
            outcome = batch.make(index)
        except HorenError as exc:
            return exc
        if outcome.artifact is not None:
            self.add(record, outcome)
        return outcome
