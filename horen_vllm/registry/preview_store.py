"""Previews in SQL: rows that live as long as the calls that ask."""

import secrets
from datetime import timedelta

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from horen_vllm.errors import FailedPrecondition, NotFound
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.preview_records import (
    PreviewAnswer,
    PreviewTask,
    answer_from_json,
    answer_to_json,
    spec_from_json,
    spec_to_json,
)
from horen_vllm.registry.records import codebook_name
from horen_vllm.registry.schema import CodebookRow, PreviewRow
from horen_vllm.registry.sql_store import SqlStore, find_codebook


class SqlPreviewStore(SqlStore):
    """`ports.PreviewStore` on SQL."""

    def ask_preview(self, name: CodebookName, spec: EditSpec, *, wait_s: float) -> str:
        """Ask the workers what would become of an edit, for `wait_s` seconds; return the preview's id.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        """
        with self._database.write("") as session:
            now = self._clock()
            session.execute(delete(PreviewRow).where(PreviewRow.expires_at <= now))
            row = PreviewRow(
                preview_id=secrets.token_hex(16),
                codebook_id=find_codebook(session, name).id,
                spec=spec_to_json(spec),
                created_at=now,
                expires_at=now + timedelta(seconds=wait_s),
            )
            session.add(row)
            return row.preview_id

    def preview_answer(self, preview_id: str) -> PreviewAnswer | None:
        """Return a worker's answer, None while there is none; NotFound ``unknown_preview`` once it is over."""
        with self._database.read() as session:
            answer = _find(session, preview_id).answer
            return None if answer is None else answer_from_json(answer)

    def drop_preview(self, preview_id: str) -> None:
        """Forget a preview, whatever became of it."""
        with self._database.write("") as session:
            session.execute(delete(PreviewRow).where(PreviewRow.preview_id == preview_id))

    def claim_preview(self, worker: str, *, fingerprint: str, lease_s: float) -> PreviewTask | None:
        """Take the oldest preview of a codebook of this base model that nobody else has; None when there is none."""
        now = self._clock()
        free = or_(PreviewRow.lease_expires_at.is_(None), PreviewRow.lease_expires_at <= now)
        query = (
            select(PreviewRow, CodebookRow)
            .join(CodebookRow, CodebookRow.id == PreviewRow.codebook_id)
            .where(
                CodebookRow.fingerprint == fingerprint, PreviewRow.answer.is_(None), PreviewRow.expires_at > now, free
            )
            .order_by(PreviewRow.created_at, PreviewRow.preview_id)
            .limit(1)
        )
        with self._database.read() as session:
            if session.execute(query).first() is None:
                return None  # mostly so: a look costs no lock
        with self._database.write("") as session:
            found = session.execute(query.with_for_update(skip_locked=True, of=PreviewRow)).first()
            if found is None:
                return None
            row, codebook = found
            row.worker, row.lease_expires_at = worker, now + timedelta(seconds=lease_s)
            return PreviewTask(
                preview_id=row.preview_id,
                codebook=codebook_name(codebook),
                spec=spec_from_json(row.spec),
                sequence=codebook.last_sequence + 1,
                created_at=row.created_at,
            )

    def answer_preview(self, worker: str, preview_id: str, answer: PreviewAnswer) -> None:
        """Answer a preview that `worker` has taken.

        Raises
        ------
        NotFound
            ``unknown_preview``, when nobody waits any more.
        FailedPrecondition
            ``claim_lost``, when another worker has it.
        """
        with self._database.write("") as session:
            row = _find(session, preview_id, lock=True)
            if row.worker != worker:
                raise FailedPrecondition(f"Another worker has preview {preview_id}.", code="claim_lost")
            row.answer = answer_to_json(answer)


def _find(session: Session, preview_id: str, *, lock: bool = False) -> PreviewRow:
    row = session.get(PreviewRow, preview_id, with_for_update=lock or None)
    if row is None:
        raise NotFound(f"There is no preview {preview_id}.", code="unknown_preview")
    return row
