"""Codebooks in memory."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import AlreadyExists
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.differences import DiffRecord
from horen_vllm.registry.etags import codebook_etag, require_etag
from horen_vllm.registry.models import CodebookRecord, Delta, EntryRef, RequestKey, RevisionKind, RevisionRecord
from horen_vllm.testing.memory.changes import record, remember, replayed
from horen_vllm.testing.memory.quotas import require_codebook
from horen_vllm.testing.memory.retiring import revive
from horen_vllm.testing.memory.revising import add_revision, difference, entry_refs, members_at
from horen_vllm.testing.memory.state import Book, MemoryStore, State


class MemoryCodebooks(MemoryStore):
    """`ports.CodebookStore` in memory."""

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
        """Create an empty codebook at revision 1; AlreadyExists ``codebook_exists``."""
        now = self._clock()
        new = CodebookRecord(
            name=name,
            model=model,
            fingerprint=fingerprint,
            site=site,
            parameters=parameters,
            revision=0,
            entry_count=0,
            created_at=now,
        )
        with self._storage.write(validate_only=validate_only) as state:
            if replayed(state, request, now) is not None:
                return state.book(name, deleted=True).record
            require_codebook(state, name.tenant)
            if name in state.books:
                message = f"There is a codebook {name} already; the name of a deleted one stays taken."
                raise AlreadyExists(message, code="codebook_exists")
            empty = Book(record=new, last_sequence=0, revisions=(), members=())
            made = state.books[name] = add_revision(empty, frozenset(), kind=RevisionKind.CREATE, now=now)
            record(state, "CreateCodebook", tenant=name.tenant, resource=str(name), now=now)
            remember(state, request, name.codebook, now)
            return made.record

    def get_codebook(self, name: CodebookName) -> CodebookRecord:
        """Return the codebook as it is now, also a deleted one."""
        return self._storage.now.book(name, deleted=True).record

    def list_codebooks(self, tenant: TenantId | None = None, *, deleted: bool = False) -> Sequence[CodebookRecord]:
        """Return all codebooks (of `tenant`, when given) by name; with `deleted`, deleted ones, too."""
        records = [book.record for _, book in sorted(self._storage.now.books.items())]
        shown = [it for it in records if deleted or it.deleted_at is None]
        return [it for it in shown if tenant in (None, it.name.tenant)]

    def delete_codebook(
        self,
        name: CodebookName,
        *,
        etag: str | None = None,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> CodebookRecord:
        """Take a codebook away; its name stays taken, and its unfinished edits wait. Aborted ``etag_mismatch``."""

        def delete(_state: State, book: CodebookRecord, now: datetime) -> CodebookRecord:
            return replace(book, deleted_at=now)

        return self._change("DeleteCodebook", name, delete, etag=etag, request=request, validate_only=validate_only)

    def undelete_codebook(
        self,
        name: CodebookName,
        *,
        etag: str | None = None,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> CodebookRecord:
        """Bring a deleted codebook back; AlreadyExists ``codebook_not_deleted``, Aborted ``etag_mismatch``."""

        def undelete(state: State, book: CodebookRecord, _now: datetime) -> CodebookRecord:
            if book.deleted_at is None:
                raise AlreadyExists(f"{name} is not deleted.", code="codebook_not_deleted")
            require_codebook(state, name.tenant)
            return replace(book, deleted_at=None)

        return self._change("UndeleteCodebook", name, undelete, etag=etag, request=request, validate_only=validate_only)

    def list_revisions(self, name: CodebookName, *, after: int = 0, limit: int = 1000) -> Sequence[RevisionRecord]:
        """Return at most `limit` revisions with a number greater than `after`, oldest first."""
        return [it for it in self._storage.now.book(name).revisions if it.number > after][:limit]

    def entries(self, name: CodebookName, revision: int | None = None) -> Sequence[EntryRef]:
        """Return the entries of `revision` (default: current) by sequence."""
        state = self._storage.now
        book = state.book(name)
        return entry_refs(state, book.current if revision is None else members_at(book, revision))

    def delta(self, name: CodebookName, since: int) -> Delta:
        """Return what changed after revision `since` (0: everything)."""
        state = self._storage.now
        book = state.book(name)
        before = members_at(book, since, nothing=True)
        removed = entry_refs(state, before - book.current)
        return Delta(
            codebook=book.record,
            base=since,
            revision=book.record.revision,
            added=entry_refs(state, book.current - before),
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
        """Return at most `limit` entries that differ between two revisions, by sequence."""
        state = self._storage.now
        book = state.book(name)
        to = book.record.revision if to_revision is None else to_revision
        whole = difference(state, book, from_revision, to)
        changes = [it for it in whole.changes if it.sequence > after_sequence][:limit]
        return replace(whole, changes=tuple(changes))

    def rollback(
        self,
        name: CodebookName,
        to: int,
        *,
        etag: str | None = None,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> RevisionRecord:
        """Make a new revision with exactly the entries and the threshold of `to`; Aborted ``etag_mismatch``."""
        with self._storage.write(validate_only=validate_only) as state:
            now = self._clock()
            made = replayed(state, request, now)
            book = state.book(name, deleted=made is not None)
            if made is not None:
                return book.revisions[int(made) - 1]
            require_etag(etag, codebook_etag(book.record))
            members, threshold = members_at(book, to), book.revisions[to - 1].threshold
            kind = RevisionKind.ROLLBACK
            book = add_revision(book, members, kind=kind, now=now, restored=to, threshold=threshold)
            state.books[name] = book
            revive(state, name, now)
            detail = {"to_revision": to, "revision": book.record.revision}
            record(state, "RollbackCodebook", tenant=name.tenant, resource=str(name), now=now, detail=detail)
            remember(state, request, str(book.record.revision), now)
            return replace(book.revisions[-1], number=0) if validate_only else book.revisions[-1]

    def _change(
        self,
        method: str,
        name: CodebookName,
        change: Callable[[State, CodebookRecord, datetime], CodebookRecord],
        *,
        etag: str | None,
        request: RequestKey | None,
        validate_only: bool,
    ) -> CodebookRecord:
        """Change the codebook's own record."""
        with self._storage.write(validate_only=validate_only) as state:
            now = self._clock()
            done = replayed(state, request, now) is not None
            book = state.book(name, deleted=done or method == "UndeleteCodebook")
            if done:
                return book.record
            require_etag(etag, codebook_etag(book.record))
            changed = change(state, book.record, now)
            state.books[name] = replace(book, record=changed)
            record(state, method, tenant=name.tenant, resource=str(name), now=now)
            remember(state, request, name.codebook, now)
            return changed
