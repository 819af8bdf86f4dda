"""Codebooks and their revisions in SQL."""

from collections.abc import Sequence

from sqlalchemy import exc, select

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import AlreadyExists
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.models import CodebookRecord, Delta, EntryRef, RevisionKind, RevisionRecord
from horen_vllm.registry.records import codebook_record, revision_record
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
        self, name: CodebookName, *, model: str, fingerprint: str, site: str, parameters: MethodParameters
    ) -> CodebookRecord:
        """Create an empty codebook at revision 1.

        Raises
        ------
        AlreadyExists
            ``codebook_exists``, when the name is taken.
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
        with self._database.write() as session:
            session.add(row)
            try:
                session.flush()
            except exc.IntegrityError as error:
                raise AlreadyExists(f"There is a codebook {name} already.", code="codebook_exists") from error
            add_revision(session, row, kind=RevisionKind.CREATE, entry_count=0, now=now)
            session.flush()
            return codebook_record(row)

    def get_codebook(self, name: CodebookName) -> CodebookRecord:
        """Return the codebook as it is now."""
        with self._database.read() as session:
            return codebook_record(find_codebook(session, name))

    def list_codebooks(self, tenant: TenantId | None = None) -> Sequence[CodebookRecord]:
        """Return all codebooks (of `tenant`, when given) by name."""
        query = select(CodebookRow).order_by(CodebookRow.tenant, CodebookRow.name)
        if tenant is not None:
            query = query.where(CodebookRow.tenant == tenant)
        with self._database.read() as session:
            return [codebook_record(row) for row in session.scalars(query)]

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
            ``unknown_revision``.
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
            ``unknown_revision``.
        """
        with self._database.read() as session:
            codebook = find_codebook(session, name)
            require_revision(codebook, name, since, oldest=0)
            removed = entries_removed(session, codebook, since)
            return Delta(
                codebook=codebook_record(codebook),
                base=since,
                revision=codebook.revision,
                added=entries_added(session, codebook, since),
                removed=tuple(entry.edit_id for entry in removed),
            )

    def rollback(self, name: CodebookName, to: int) -> RevisionRecord:
        """Make a new revision with exactly the entries and the threshold of `to`, also when it is the current one.

        Raises
        ------
        NotFound
            ``unknown_revision``.
        """
        with self._database.write() as session:
            codebook = find_codebook(session, name, lock=True)
            require_revision(codebook, name, to)
            target = session.get_one(RevisionRow, (codebook.id, to))
            restore_entries(session, codebook, to)
            row = add_revision(
                session,
                codebook,
                kind=RevisionKind.ROLLBACK,
                entry_count=target.entry_count,
                now=self._clock(),
                restored=to,
                threshold=target.threshold,
            )
            return revision_record(row, name)
