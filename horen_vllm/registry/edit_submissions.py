"""Edits in SQL as their users see them: submission and lookup."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from horen_vllm.errors import AlreadyExists, NotFound
from horen_vllm.ids import CodebookName, EditId, new_edit_id
from horen_vllm.registry.edit_rows import edit_by_request, edits_with_state, is_active
from horen_vllm.registry.models import EditRecord, EditSpec, EditState
from horen_vllm.registry.records import codebook_name, edit_record, edit_spec
from horen_vllm.registry.schema import CodebookRow, EditRow
from horen_vllm.registry.sql_store import SqlStore, find_codebook


class SqlEditSubmissions(SqlStore):
    """The half of `ports.EditQueue` that users need, on SQL."""

    def submit(self, name: CodebookName, spec: EditSpec, *, request_id: str | None = None) -> EditRecord:
        """Store an edit durably as COMMITTED; a repeated `request_id` returns the first record.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        AlreadyExists
            ``request_id_reused``, when the first record has another `spec`.
        """
        with self._database.write("submit") as session:
            codebook = find_codebook(session, name, lock=True)
            first = None if request_id is None else edit_by_request(session, codebook, request_id)
            if first is not None:
                return _replayed(session, first, name, spec)
            codebook.last_sequence += 1
            row = _new_row(codebook, spec, request_id, self._clock())
            session.add(row)
            return edit_record(row, name, active=False)

    def get_edit(self, edit_id: EditId) -> EditRecord:
        """Return an edit.

        Raises
        ------
        NotFound
            ``unknown_edit``.
        """
        query = edits_with_state().where(EditRow.edit_id == edit_id)
        with self._database.read() as session:
            found = session.execute(query).one_or_none()
            if found is None:
                raise NotFound(f"There is no edit {edit_id}.", code="unknown_edit")
            row, codebook, active = found
            return edit_record(row, codebook_name(codebook), active=active)

    def list_edits(self, name: CodebookName, *, after_sequence: int = 0, limit: int = 1000) -> Sequence[EditRecord]:
        """Return at most `limit` edits of the codebook with a greater sequence, oldest first.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        """
        with self._database.read() as session:
            codebook = find_codebook(session, name)
            query = (
                edits_with_state()
                .where(EditRow.codebook_id == codebook.id, EditRow.sequence > after_sequence)
                .order_by(EditRow.sequence)
                .limit(limit)
            )
            return [edit_record(row, name, active=active) for row, _, active in session.execute(query)]


def _new_row(codebook: CodebookRow, spec: EditSpec, request_id: str | None, now: datetime) -> EditRow:
    edit_id = new_edit_id()
    return EditRow(
        edit_id=edit_id,
        origin=edit_id,
        codebook_id=codebook.id,
        sequence=codebook.last_sequence,
        request_id=request_id,
        prompt=spec.prompt,
        target=spec.target,
        subject=spec.subject,
        aliases=spec.aliases,
        paraphrases=spec.paraphrases,
        must_not_fire=spec.must_not_fire,
        state=EditState.COMMITTED,
        attempt=0,
        supersedes=(),
        overlaps=(),
        created_at=now,
        updated_at=now,
    )


def _replayed(session: Session, first: EditRow, name: CodebookName, spec: EditSpec) -> EditRecord:
    if edit_spec(first) != spec:
        message = f"The request id {first.request_id!r} was used for another edit, {first.edit_id}."
        raise AlreadyExists(message, code="request_id_reused")
    return edit_record(first, name, active=is_active(session, first.edit_id))
