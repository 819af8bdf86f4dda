"""Retirement of edits in memory: asked for, and when their time has passed."""

from horen_vllm.errors import NotFound
from horen_vllm.ids import EditId
from horen_vllm.registry.etags import edit_etag, require_etag
from horen_vllm.registry.models import EditRecord, RequestKey
from horen_vllm.testing.memory.changes import remember, replayed
from horen_vllm.testing.memory.edits import find_edit
from horen_vllm.testing.memory.retiring import EXPIRY, expired, retire
from horen_vllm.testing.memory.state import MemoryStore


class MemoryRetirement(MemoryStore):
    """The part of `ports.EditQueue` that takes edits back, in memory."""

    def retire_edit(
        self,
        edit_id: EditId,
        *,
        request: RequestKey | None = None,
        etag: str | None = None,
        validate_only: bool = False,
    ) -> EditRecord:
        """Take an edit back; NotFound ``unknown_edit``, also in a deleted codebook; Aborted ``etag_mismatch``."""
        with self._storage.write(validate_only=validate_only) as state:
            now = self._clock()
            if replayed(state, request, now) is not None:
                return find_edit(state, edit_id)
            current = find_edit(state, edit_id)
            if state.books[current.codebook].record.deleted_at is not None:
                raise NotFound(f"There is no edit {edit_id}.", code="unknown_edit")
            require_etag(etag, edit_etag(current))
            if validate_only:
                return current
            if current.retired_at is None:
                retire(state, edit_id, now)
            remember(state, request, edit_id, now)
            return find_edit(state, edit_id)

    def retire_expired(self, *, limit: int = 1000) -> int:
        """Retire edits whose time has passed, at most `limit`; return how many."""
        with self._storage.write() as state:
            now = self._clock()
            due = expired((it for it in state.edits.values() if it.record.retired_at is None), now)[:limit]
            for edit_id in due:
                retire(state, edit_id, now, caller=EXPIRY)
            return len(due)
