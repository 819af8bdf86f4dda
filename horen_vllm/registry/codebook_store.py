"""Codebooks and their revisions in SQL."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import exc, select
from sqlalchemy.orm import Session

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import AlreadyExists, NotFound
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.audit_log import record
from horen_vllm.registry.differences import DiffRecord
from horen_vllm.registry.diffing import difference
from horen_vllm.registry.etags import codebook_etag, require_etag
from horen_vllm.registry.models import CodebookRecord, Delta, EntryRef, RequestKey, RevisionKind, RevisionRecord
from horen_vllm.registry.quotas import require_codebook_quota
from horen_vllm.registry.records import codebook_record, revision_record
from horen_vllm.registry.requests import remember, replayed
from horen_vllm.registry.retiring import revive_edits
from horen_vllm.registry.revisioning import (
    add_revision,
    entries_added,
    entries_at,
    entries_removed,
    restore_entries,
)
from horen_vllm.registry.schema import CodebookRow, RevisionRow
from horen_vllm.registry.sql_store import SqlStore, find_codebook, require_revision


class SqlCodebookStore(SqlStore):
    """`ports.CodebookStore` on SQL; every method raises NotFound ``unknown_codebook`` for a name it lacks."""

    def create_codebook(
        self,
        name: CodebookName,
        *,
        model: str,
        fingerprint: str,
        site: str,
        parameters: MethodParameters,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> CodebookRecord:
        """Create an empty codebook at revision 1; a repeated `request` returns it as it is now.

        Raises
        ------
        AlreadyExists
            ``codebook_exists``, when the name is taken, also by a deleted one; ``request_id_reused``.
        ResourceExhausted
            ``quota_exceeded``.
        """
        now = self._clock()
        row = CodebookRow(
            tenant=name.tenant,
            name=name.codebook,
            model=model,
            fingerprint=fingerprint,
            site=site,
            parameters=parameters.to_dict(),
            revision=0,
            entry_count=0,
            last_sequence=0,
            created_at=now,
        )
        with self._database.write("" if validate_only else "create_codebook") as session:
            if replayed(session, request, now) is not None:
                return codebook_record(find_codebook(session, name, deleted=True))
            require_codebook_quota(session, name.tenant)
            session.add(row)
            try:
                session.flush()
            except exc.IntegrityError as error:
                message = f"There is a codebook {name} already; the name of a deleted one stays taken."
                raise AlreadyExists(message, code="codebook_exists") from error
            add_revision(session, row, kind=RevisionKind.CREATE, entry_count=0, now=now)
            session.flush()
            record(session, "CreateCodebook", tenant=name.tenant, resource=str(name), now=now)
            remember(session, request, name.codebook, now)
            made = codebook_record(row)
            if validate_only:
                session.rollback()
            return made

    def get_codebook(self, name: CodebookName) -> CodebookRecord:
        """Return the codebook as it is now, also a deleted one."""
        with self._database.read() as session:
            return codebook_record(find_codebook(session, name, deleted=True))

    def list_codebooks(self, tenant: TenantId | None = None, *, deleted: bool = False) -> Sequence[CodebookRecord]:
        """Return all codebooks (of `tenant`, when given) by name; with `deleted`, deleted ones, too."""
        query = select(CodebookRow).order_by(CodebookRow.tenant, CodebookRow.name)
        if tenant is not None:
            query = query.where(CodebookRow.tenant == tenant)
        if not deleted:
            query = query.where(CodebookRow.deleted_at.is_(None))
        with self._database.read() as session:
            return [codebook_record(row) for row in session.scalars(query)]

    def delete_codebook(
        self,
        name: CodebookName,
        *,
        etag: str | None = None,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> CodebookRecord:
        """Take a codebook away: it is not served, takes no edits, and its unfinished ones wait; the name stays taken.

        Raises
        ------
        Aborted
            ``etag_mismatch``.
        AlreadyExists
            ``request_id_reused``.
        """

        def delete(_session: Session, row: CodebookRow, now: datetime) -> None:
            row.deleted_at = now

        return self._change("DeleteCodebook", name, delete, etag=etag, request=request, validate_only=validate_only)

    def undelete_codebook(
        self,
        name: CodebookName,
        *,
        etag: str | None = None,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> CodebookRecord:
        """Bring a deleted codebook back as it was.

        Raises
        ------
        NotFound
            ``codebook_purged``, when it was deleted too long ago.
        AlreadyExists
            ``codebook_not_deleted``, when it is there; ``request_id_reused``.
        Aborted
            ``etag_mismatch``.
        ResourceExhausted
            ``quota_exceeded``.
        """

        def undelete(session: Session, row: CodebookRow, _now: datetime) -> None:
            if row.deleted_at is None:
                raise AlreadyExists(f"{name} is not deleted.", code="codebook_not_deleted")
            if row.oldest_revision > row.revision:
                message = f"{name} was deleted too long ago: its entries are gone."
                raise NotFound(message, code="codebook_purged")
            require_codebook_quota(session, name.tenant)
            row.deleted_at = None

        return self._change("UndeleteCodebook", name, undelete, etag=etag, request=request, validate_only=validate_only)

    def list_revisions(self, name: CodebookName, *, after: int = 0, limit: int = 1000) -> Sequence[RevisionRecord]:
        """Return at most `limit` revisions with a number greater than `after`, oldest first."""
        with self._database.read() as session:
            codebook = find_codebook(session, name)
            query = (
                select(RevisionRow)
                .where(RevisionRow.codebook_id == codebook.id, RevisionRow.number > after)
                .order_by(RevisionRow.number)
                .limit(limit)
            )
            return [revision_record(row, name) for row in session.scalars(query)]

    def entries(self, name: CodebookName, revision: int | None = None) -> Sequence[EntryRef]:
        """Return the entries of `revision` (default: current) by sequence.

        Raises
        ------
        NotFound
            ``unknown_revision`` or ``revision_pruned``.
        """
        with self._database.read() as session:
            codebook = find_codebook(session, name)
            number = codebook.revision if revision is None else revision
            require_revision(codebook, name, number)
            return entries_at(session, codebook, number)

    def delta(self, name: CodebookName, since: int) -> Delta:
        """Return what changed after revision `since` (0: everything), whatever the codebook's size.

        Raises
        ------
        NotFound
            ``unknown_revision`` or ``revision_pruned``.
        """
        with self._database.read() as session:
            codebook = find_codebook(session, name)
            require_revision(codebook, name, since, nothing=True)
            removed = entries_removed(session, codebook, since)
            return Delta(
                codebook=codebook_record(codebook),
                base=since,
                revision=codebook.revision,
                added=entries_added(session, codebook, since),
                removed=tuple(entry.edit_id for entry in removed),
            )

    def diff(
        self,
        name: CodebookName,
        *,
        from_revision: int,
        to_revision: int | None = None,
        after_sequence: int = 0,
        limit: int = 1000,
    ) -> DiffRecord:
        """Return at most `limit` entries that differ between two revisions; costs what changed between them.

        Parameters
        ----------
        from_revision
            0: nothing at all.
        to_revision
            None: the current one.
        after_sequence
            Only changes of edits with a greater sequence.

        Raises
        ------
        NotFound
            ``unknown_revision`` or ``revision_pruned``.
        """
        with self._database.read() as session:
            codebook = find_codebook(session, name)
            to = codebook.revision if to_revision is None else to_revision
            require_revision(codebook, name, from_revision, nothing=True)
            require_revision(codebook, name, to)
            return difference(session, codebook, from_revision, to, after_sequence=after_sequence, limit=limit)

    def rollback(
        self,
        name: CodebookName,
        to: int,
        *,
        etag: str | None = None,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> RevisionRecord:
        """Make a new revision with exactly the entries and the threshold of `to`, also when it is the current one.

        With `validate_only` nothing is made, and the answer's number is 0. A repeated `request` returns the revision
        that it made.

        Raises
        ------
        NotFound
            ``unknown_revision`` or ``revision_pruned``.
        Aborted
            ``etag_mismatch``.
        AlreadyExists
            ``request_id_reused``.
        """
        with self._database.write("" if validate_only else "rollback") as session:
            now = self._clock()
            made = replayed(session, request, now)
            codebook = find_codebook(session, name, lock=True, deleted=made is not None)
            if made is not None:
                return revision_record(session.get_one(RevisionRow, (codebook.id, int(made))), name)
            require_etag(etag, codebook_etag(codebook_record(codebook)))
            require_revision(codebook, name, to)
            row = _roll_back(session, codebook, to, now)
            detail = {"to_revision": to, "revision": row.number}
            record(session, "RollbackCodebook", tenant=name.tenant, resource=str(name), now=now, detail=detail)
            remember(session, request, str(row.number), now)
            answer = revision_record(row, name)
            if validate_only:
                session.rollback()
                return replace(answer, number=0)
            return answer

    def _change(
        self,
        method: str,
        name: CodebookName,
        change: Callable[[Session, CodebookRow, datetime], None],
        *,
        etag: str | None,
        request: RequestKey | None,
        validate_only: bool,
    ) -> CodebookRecord:
        """Change the codebook's own row."""
        deletes = method == "DeleteCodebook"
        with self._database.write(
            "" if validate_only else "delete_codebook" if deletes else "undelete_codebook"
        ) as session:
            now = self._clock()
            done = replayed(session, request, now) is not None
            deleted = done or method == "UndeleteCodebook"
            row = find_codebook(session, name, lock=True, deleted=deleted)
            if done:
                return codebook_record(row)
            require_etag(etag, codebook_etag(codebook_record(row)))
            change(session, row, now)
            record(session, method, tenant=name.tenant, resource=str(name), now=now)
            remember(session, request, name.codebook, now)
            answer = codebook_record(row)
            if validate_only:
                session.rollback()
            return answer


def _roll_back(session: Session, codebook: CodebookRow, to: int, now: datetime) -> RevisionRow:
    target = session.get_one(RevisionRow, (codebook.id, to))
    restore_entries(session, codebook, to)
    row = add_revision(
        session,
        codebook,
        kind=RevisionKind.ROLLBACK,
        entry_count=target.entry_count,
        now=now,
        restored=to,
        threshold=target.threshold,
    )
    revive_edits(session, codebook, now)
    return row
