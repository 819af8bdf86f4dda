"""Retirement of edits in SQL: asked for, and when their time has passed."""

from sqlalchemy import Select, select

from horen_vllm.errors import NotFound
from horen_vllm.ids import EditId
from horen_vllm.registry.edit_rows import find_edit
from horen_vllm.registry.etags import edit_etag, require_etag
from horen_vllm.registry.models import EditRecord, RequestKey
from horen_vllm.registry.requests import remember, replayed
from horen_vllm.registry.retiring import EXPIRY, retire_row
from horen_vllm.registry.schema import CodebookRow, EditRow
from horen_vllm.registry.sql_store import SqlStore


class SqlEditRetirement(SqlStore):
    """The part of `ports.EditQueue` that takes edits back, on SQL."""

    def retire_edit(
        self,
        edit_id: EditId,
        *,
        request: RequestKey | None = None,
        etag: str | None = None,
        validate_only: bool = False,
    ) -> EditRecord:
        """Take an edit back; one that was retired is returned as it is.

        Raises
        ------
        NotFound
            ``unknown_edit``, also in a deleted codebook.
        Aborted
            ``etag_mismatch``.
        AlreadyExists
            ``request_id_reused``.
        """
        with self._database.write("" if validate_only else "retire_edit") as session:
            now = self._clock()
            if replayed(session, request, now) is not None:
                return find_edit(session, edit_id)
            codebook = session.scalars(_codebook_of(edit_id)).one_or_none()
            if codebook is None:
                raise NotFound(f"There is no edit {edit_id}.", code="unknown_edit")
            current = find_edit(session, edit_id)
            require_etag(etag, edit_etag(current))
            if validate_only:
                return current
            row = session.get_one(EditRow, edit_id, with_for_update=True)
            if row.retired_at is None:
                retire_row(session, codebook, row, now)
            remember(session, request, edit_id, now)
            session.flush()
            return find_edit(session, edit_id)

    def retire_expired(self, *, limit: int = 1000) -> int:
        """Retire edits whose time has passed, at most `limit`; return how many."""
        with self._database.read() as session:
            due = EditRow.expires_at <= self._clock(), EditRow.retired_at.is_(None)
            found = session.execute(select(EditRow.edit_id, EditRow.codebook_id).where(*due).limit(limit)).all()
        retired = 0
        for codebook_id in sorted({owner for _, owner in found}):
            retired += self._retire_in(codebook_id, [edit_id for edit_id, owner in found if owner == codebook_id])
        return retired

    def _retire_in(self, codebook_id: int, edits: list[str]) -> int:
        with self._database.write("retire_expired") as session:
            codebook = session.get_one(CodebookRow, codebook_id, with_for_update=True)
            now = self._clock()
            # Another control plane, or a rollback, may have been faster.
            still = EditRow.edit_id.in_(edits), EditRow.retired_at.is_(None), EditRow.expires_at <= now
            rows = session.scalars(select(EditRow).where(*still).order_by(EditRow.sequence).with_for_update()).all()
            for row in rows:
                retire_row(session, codebook, row, now, caller=EXPIRY)
            return len(rows)


def _codebook_of(edit_id: EditId) -> Select[CodebookRow]:
    return (
        select(CodebookRow)
        .join(EditRow, EditRow.codebook_id == CodebookRow.id)
        .where(EditRow.edit_id == edit_id, CodebookRow.deleted_at.is_(None))
        .with_for_update(of=CodebookRow)
    )
