"""Codebooks in memory."""

from collections.abc import Sequence

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import AlreadyExists
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.models import CodebookRecord, Delta, EntryRef, RevisionKind, RevisionRecord
from horen_vllm.testing.memory.revising import add_revision, entry_refs, members_at
from horen_vllm.testing.memory.state import Book, MemoryStore


class MemoryCodebooks(MemoryStore):
    """`ports.CodebookStore` in memory."""

    def create_codebook(
        self, name: CodebookName, *, model: str, fingerprint: str, site: str, parameters: MethodParameters
    ) -> CodebookRecord:
        """Create an empty codebook at revision 1; AlreadyExists ``codebook_exists``."""
        now = self._clock()
        record = CodebookRecord(
            name=name,
            model=model,
            fingerprint=fingerprint,
            site=site,
            parameters=parameters,
            revision=0,
            entry_count=0,
            created_at=now,
        )
        with self._storage.write() as state:
            if name in state.books:
                raise AlreadyExists(f"There is a codebook {name} already.", code="codebook_exists")
            book = Book(record=record, last_sequence=0, revisions=(), members=())
            state.books[name] = add_revision(book, frozenset(), kind=RevisionKind.CREATE, now=now)
            return state.books[name].record

    def get_codebook(self, name: CodebookName) -> CodebookRecord:
        """Return the codebook as it is now."""
        return self._storage.now.book(name).record

    def list_codebooks(self, tenant: TenantId | None = None) -> Sequence[CodebookRecord]:
        """Return all codebooks (of `tenant`, when given) by name."""
        records = [book.record for _, book in sorted(self._storage.now.books.items())]
        return [it for it in records if tenant in (None, it.name.tenant)]

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

    def rollback(self, name: CodebookName, to: int) -> RevisionRecord:
        """Make a new revision with exactly the entries and the threshold of `to`."""
        with self._storage.write() as state:
            book = state.book(name)
            members = members_at(book, to)
            state.books[name] = add_revision(
                book,
                members,
                kind=RevisionKind.ROLLBACK,
                now=self._clock(),
                restored=to,
                threshold=book.revisions[to - 1].threshold,
            )
            return state.books[name].revisions[-1]
