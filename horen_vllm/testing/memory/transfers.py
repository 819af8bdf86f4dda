"""What leaves a codebook in memory with its file, and what comes in with one."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, replace
from datetime import datetime

from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import EditState, RequestKey, RevisionKind, RevisionRecord
from horen_vllm.registry.portable import (
    ImportCounts,
    ImportedEdit,
    ImportRecord,
    KnownOrigin,
    PortableEdit,
    PortableState,
)
from horen_vllm.testing.memory.changes import record, remember, replayed
from horen_vllm.testing.memory.importing import Importer
from horen_vllm.testing.memory.quotas import require_entries
from horen_vllm.testing.memory.revising import add_revision, members_at
from horen_vllm.testing.memory.state import Edit, MemoryStore, State


class MemoryTransfers(MemoryStore):
    """`ports.TransferStore` in memory."""

    def get_revision(self, name: CodebookName, number: int | None = None) -> RevisionRecord:
        """Return a revision (default: the current one); NotFound ``unknown_revision`` or ``revision_pruned``."""
        book = self._storage.now.book(name)
        number = book.record.revision if number is None else number
        members_at(book, number)
        return book.revisions[number - 1]

    def portable_edits(
        self, name: CodebookName, revision: int, *, after_sequence: int = 0, limit: int = 1000
    ) -> Sequence[PortableEdit]:
        """Return at most `limit` edits that were ever published or retired, with a greater sequence, oldest first."""
        state = self._storage.now
        members = members_at(state.book(name), revision)
        later = [it for it in state.edits_of(name) if it.record.sequence > after_sequence]
        known = [it for it in later if it.record.state is EditState.PUBLISHED or it.record.retired_at is not None]
        return [_portable(state, it, within=it.record.edit_id in members) for it in known[:limit]]

    def known_origins(self, name: CodebookName, origins: Collection[EditId]) -> dict[EditId, KnownOrigin]:
        """Return which edits of a file the codebook has, by origin."""
        state = self._storage.now
        state.book(name)
        edits = {it.origin: state.shown(it) for it in state.edits_of(name) if it.origin in origins}
        return {
            origin: KnownOrigin(edit_id=it.edit_id, wants_entry=it.retired_at is None and not it.active)
            for origin, it in edits.items()
        }

    def made_import(self, name: CodebookName, request: RequestKey | None) -> ImportRecord | None:
        """Return what a repeated `request` made; None: it is still to be made."""
        return _made(self._storage.now, name, request, self._clock())

    def import_edits(
        self,
        name: CodebookName,
        edits: Iterable[ImportedEdit],
        *,
        threshold: float,
        entries: int,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> ImportRecord:
        """Bring the edits of a file, oldest first, into the codebook as one revision of kind IMPORT."""
        with self._storage.write(validate_only=validate_only) as state:
            now = self._clock()
            made = _made(state, name, request, now)
            if made is not None:
                return made
            was_empty = not state.book(name).current
            importer = Importer(state, name, now)
            importer.take(edits)
            counts = importer.counts
            require_entries(state, name.tenant, counts.added)
            whole = was_empty and counts.added == entries
            _make_revision(state, name, importer, threshold, whole=whole, now=now)
            book = state.books[name].record
            detail = {"revision": book.revision, "added": counts.added, "retired": counts.retired}
            record(state, "ImportCodebook", tenant=name.tenant, resource=str(name), now=now, detail=detail)
            remember(state, request, " ".join(map(str, astuple(counts))), now)
            return ImportRecord(codebook=book, counts=counts)


def _made(state: State, name: CodebookName, request: RequestKey | None, now: datetime) -> ImportRecord | None:
    reference = replayed(state, request, now)
    if reference is None:
        return None
    added, already_there, kept_retired, retired = map(int, reference.split())
    counts = ImportCounts(added=added, already_there=already_there, kept_retired=kept_retired, retired=retired)
    return ImportRecord(codebook=state.book(name, deleted=True).record, counts=counts)


def _make_revision(
    state: State, name: CodebookName, importer: Importer, threshold: float, *, whole: bool, now: datetime
) -> None:
    book = state.books[name]
    own = book.record.parameters
    chosen = threshold if whole else own.threshold
    changed = bool(importer.counts.added or importer.counts.retired)
    if not whole and changed and own.false_fire_rate is not None:
        chosen = max(own.threshold, threshold)
        book = replace(book, threshold_due=True)
    state.books[name] = add_revision(book, importer.members, kind=RevisionKind.IMPORT, now=now, threshold=chosen)


def _portable(state: State, edit: Edit, *, within: bool) -> PortableEdit:
    it = edit.record
    kept = PortableState.ACTIVE if within else PortableState.INACTIVE
    return PortableEdit(
        origin=edit.origin,
        edit_id=it.edit_id,
        sequence=it.sequence,
        spec=it.spec,
        state=kept if it.retired_at is None else PortableState.RETIRED,
        artifact=it.artifact,
        alias_of=None if it.alias_of is None else state.edits[it.alias_of].origin,
        same_as=None if it.same_as is None else state.edits[it.same_as].origin,
        supersedes=tuple(state.edits[other].origin for other in it.supersedes),
        expires_at=it.expires_at,
        retired_at=it.retired_at,
    )
