"""Reads views from the registry: a record, what it refers to, and the live replicas of its base model."""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from horen_vllm.control import derive
from horen_vllm.control.messages import CodebookView, EditProgress, EditView, RevisionView
from horen_vllm.errors import NotFound
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.models import CodebookRecord, EditRecord, EditState, RevisionKind, RevisionRecord
from horen_vllm.registry.ports import Registry


class Views:
    """Composes what clients see; every method blocks on the registry and may be called from any thread.

    Parameters
    ----------
    registry
        Where the records are.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._rollbacks = _RollbackLog(registry)

    def codebook(self, name: CodebookName) -> CodebookView:
        """Return a codebook, also a deleted one; NotFound ``unknown_codebook``."""
        return self.codebook_of(self._registry.get_codebook(name))

    def codebook_of(self, record: CodebookRecord) -> CodebookView:
        """Return the view of a codebook's record."""
        return derive.codebook_view(record, self._registry.live_replicas(record.fingerprint))

    def codebooks(self, tenant: TenantId, *, deleted: bool = False) -> list[CodebookView]:
        """Return the codebooks of a tenant by name; with `deleted`, deleted ones, too."""
        # Databases collate '-' differently; page tokens need one order.
        records = sorted(self._registry.list_codebooks(tenant, deleted=deleted), key=lambda record: record.name)
        replicas = self._registry.live_replicas()
        return [
            derive.codebook_view(record, [item for item in replicas if item.fingerprint == record.fingerprint])
            for record in records
        ]

    def revisions(self, name: CodebookName, records: Sequence[RevisionRecord]) -> list[RevisionView]:
        """Return the views of revisions of one codebook."""
        replicas = self._registry.live_replicas(self._registry.get_codebook(name).fingerprint)
        return [derive.revision_view(record, replicas) for record in records]

    def edit(self, parent: TenantId | CodebookName, edit_id: EditId) -> EditView:
        """Return an edit of a codebook or tenant; NotFound ``unknown_edit``, also when it is another's."""
        owner = self._registry.get_edit(edit_id).codebook
        if parent not in {owner, owner.tenant}:
            raise NotFound(f"There is no edit {edit_id}.", code="unknown_edit")
        return self._compose(owner, lambda: [self._registry.get_edit(edit_id)])[0]

    def edit_with_attempts(self, parent: TenantId | CodebookName, edit_id: EditId) -> EditView:
        """Return an edit and the times that workers have taken it; raises as `edit`."""
        return replace(self.edit(parent, edit_id), attempts=tuple(self._registry.attempts(edit_id)))

    def edits(
        self, name: CodebookName, *, after_sequence: int, limit: int, states: Collection[EditProgress] = ()
    ) -> list[EditView]:
        """Return edits (in one of `states`, when given) with a greater sequence, oldest first.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        """
        stored = {_STORED.get(state) or EditState(state.value) for state in states}
        found: list[EditView] = []
        while len(found) < limit:
            read = partial(
                self._registry.list_edits, name, after_sequence=after_sequence, limit=limit, states=tuple(stored)
            )
            views = self._compose(name, read)
            found += [view for view in views if not states or view.state in states]
            if len(views) < limit:
                break
            after_sequence = views[-1].sequence
        return found[:limit]

    def stored(self, records: Sequence[EditRecord], fingerprint: str) -> list[EditView]:
        """Return edits, of codebooks of one base model, that were just submitted or submitted again."""
        replicas = self._registry.live_replicas(fingerprint) if records else ()
        return [
            # What is not published is not served by anybody, whatever was rolled back.
            derive.edit_view(record, record, 0, replicas)
            if record.state is not EditState.PUBLISHED
            else self.edit(record.codebook, record.edit_id)
            for record in records
        ]

    def _compose(self, name: CodebookName, read: Callable[[], Sequence[EditRecord]]) -> list[EditView]:
        # In this order: what a replica had applied before an edit was seen active cannot be a later removal of it,
        # and a rollback that brought the edit back before then is in the log.
        replicas = self._registry.live_replicas(self._registry.get_codebook(name).fingerprint)
        said = [(record, self._said_by(record)) for record in read()]
        last_rollback = self._rollbacks.last(name)
        return [derive.edit_view(record, said_by, last_rollback, replicas) for record, said_by in said]

    def _said_by(self, record: EditRecord) -> EditRecord:
        return record if record.answered_by is None else self._registry.get_edit(record.answered_by)


_STORED: Final = dict.fromkeys(
    (EditProgress.PUBLISHED, EditProgress.SERVING, EditProgress.INACTIVE), EditState.PUBLISHED
)
"""States that are derived, and what the registry stores for them."""


_BRINGS_BACK: Final = frozenset({RevisionKind.ROLLBACK, RevisionKind.IMPORT})
"""Revisions that may contain an entry again that one before them lacks."""


class _RollbackLog:
    """The last rollback or import of each codebook; revisions never change, so each is read once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._seen: dict[CodebookName, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def last(self, name: CodebookName) -> int:
        """Return the number of the last revision of such a kind; 0 when there is none."""
        with self._lock:
            seen, rollback = self._seen.get(name, (0, 0))
        while records := self._registry.list_revisions(name, after=seen):
            numbers = [record.number for record in records if record.kind in _BRINGS_BACK]
            seen, rollback = records[-1].number, max([rollback, *numbers])
        with self._lock:
            self._seen[name] = max(self._seen.get(name, (0, 0)), (seen, rollback))
        return rollback
