"""Edits in memory as their users see them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from horen_vllm.errors import AlreadyExists, NotFound
from horen_vllm.ids import CodebookName, EditId, new_edit_id
from horen_vllm.registry.models import EditRecord, EditSpec, EditState
from horen_vllm.testing.memory.state import Edit, MemoryStore, State


class MemoryEdits(MemoryStore):
    """The half of `ports.EditQueue` that users need, in memory."""

    def submit(self, name: CodebookName, spec: EditSpec, *, request_id: str | None = None) -> EditRecord:
        """Store an edit as COMMITTED; AlreadyExists ``request_id_reused``."""
        with self._storage.write() as state:
            book = state.book(name)
            first = _by_request(state, name, request_id)
            if first is not None:
                return _replayed(state, first, spec)
            sequence = book.last_sequence + 1
            state.books[name] = replace(book, last_sequence=sequence)
            record = _new_record(name, spec, sequence, self._clock())
            return state.put(Edit(record=record, request_id=request_id)).record

    def get_edit(self, edit_id: EditId) -> EditRecord:
        """Return an edit; NotFound ``unknown_edit``."""
        state = self._storage.now
        found = state.edits.get(edit_id)
        if found is None:
            raise NotFound(f"There is no edit {edit_id}.", code="unknown_edit")
        return state.shown(found)

    def list_edits(self, name: CodebookName, *, after_sequence: int = 0, limit: int = 1000) -> Sequence[EditRecord]:
        """Return at most `limit` edits of the codebook with a greater sequence, oldest first."""
        state = self._storage.now
        state.book(name)
        return [state.shown(it) for it in state.edits_of(name) if it.record.sequence > after_sequence][:limit]


def _new_record(name: CodebookName, spec: EditSpec, sequence: int, now: datetime) -> EditRecord:
    return EditRecord(
        edit_id=new_edit_id(),
        codebook=name,
        sequence=sequence,
        spec=spec,
        state=EditState.COMMITTED,
        reason_code=None,
        reason=None,
        attempt=0,
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


def _by_request(state: State, name: CodebookName, request_id: str | None) -> Edit | None:
    if request_id is None:
        return None
    return next((it for it in state.edits_of(name) if it.request_id == request_id), None)


def _replayed(state: State, first: Edit, spec: EditSpec) -> EditRecord:
    if first.record.spec != spec:
        message = f"The request id {first.request_id!r} was used for another edit, {first.record.edit_id}."
        raise AlreadyExists(message, code="request_id_reused")
    return state.shown(first)
