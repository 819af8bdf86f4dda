"""Thresholds in memory that are to be computed anew since entries have gone."""

from collections.abc import Sequence
from dataclasses import replace

from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import RevisionKind, RevisionRecord
from horen_vllm.testing.memory.changes import record
from horen_vllm.testing.memory.publishing import require_revision
from horen_vllm.testing.memory.revising import add_revision
from horen_vllm.testing.memory.state import MemoryStore


class MemoryThresholds(MemoryStore):
    """`ports.ThresholdStore` in memory."""

    def thresholds_due(self, fingerprint: str) -> Sequence[CodebookName]:
        """Return codebooks of a base model that lack their threshold and have no edit in a worker's hands."""
        state, now = self._storage.now, self._clock()
        due = [it.record for it in state.books.values() if it.threshold_due and it.record.deleted_at is None]
        held = {
            it.record.codebook
            for it in state.edits.values()
            if not it.finished and it.lease_expires_at is not None and it.lease_expires_at > now
        }
        return [it.name for it in due if it.fingerprint == fingerprint and it.name not in held]

    def set_threshold(self, name: CodebookName, *, base_revision: int, threshold: float) -> RevisionRecord | None:
        """Make a THRESHOLD revision; None when the threshold is right as it is or somebody was faster."""
        with self._storage.write() as state:
            book = state.book(name)
            require_revision(book, base_revision, book.record.revision)
            if not book.threshold_due:
                return None
            book = state.books[name] = replace(book, threshold_due=False)
            if book.record.parameters.threshold == threshold:
                return None
            now = self._clock()
            book = add_revision(book, book.current, kind=RevisionKind.THRESHOLD, now=now, threshold=threshold)
            state.books[name] = book
            detail = {"revision": book.record.revision, "threshold": threshold}
            record(state, "set_threshold", tenant=name.tenant, resource=str(name), now=now, detail=detail)
            return book.revisions[-1]
