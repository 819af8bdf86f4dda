"""Previews in memory."""

import secrets
from dataclasses import replace
from datetime import timedelta

from horen_vllm.errors import FailedPrecondition, NotFound
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.preview_records import PreviewAnswer, PreviewTask
from horen_vllm.testing.memory.state import MemoryStore, Preview, State


class MemoryPreviews(MemoryStore):
    """`ports.PreviewStore` in memory."""

    def ask_preview(self, name: CodebookName, spec: EditSpec, *, wait_s: float) -> str:
        """Ask what would become of an edit, for `wait_s` seconds; return an id. NotFound ``unknown_codebook``."""
        with self._storage.write() as state:
            now = self._clock()
            state.previews = {key: it for key, it in state.previews.items() if it.expires_at > now}
            state.book(name)
            preview_id = secrets.token_hex(16)
            task = PreviewTask(preview_id=preview_id, codebook=name, spec=spec, sequence=0, created_at=now)
            state.previews[preview_id] = Preview(task=task, expires_at=now + timedelta(seconds=wait_s))
            return preview_id

    def preview_answer(self, preview_id: str) -> PreviewAnswer | None:
        """Return the answer, None while there is none; NotFound ``unknown_preview`` once it is over."""
        return _find(self._storage.now, preview_id).answer

    def drop_preview(self, preview_id: str) -> None:
        """Forget a preview, whatever became of it."""
        with self._storage.write() as state:
            state.previews.pop(preview_id, None)

    def claim_preview(self, worker: str, *, fingerprint: str, lease_s: float) -> PreviewTask | None:
        """Take the oldest open preview of this base model that nobody else has; None when there is none."""
        with self._storage.write() as state:
            now = self._clock()
            waiting = [it for it in state.previews.values() if it.answer is None and it.expires_at > now]
            free = [it for it in waiting if it.lease_expires_at is None or it.lease_expires_at <= now]
            ours = [it for it in free if state.books[it.task.codebook].record.fingerprint == fingerprint]
            if not ours:
                return None
            oldest = min(ours, key=lambda it: (it.task.created_at, it.task.preview_id))
            lease_ends = now + timedelta(seconds=lease_s)
            taken = replace(oldest, worker=worker, lease_expires_at=lease_ends)
            state.previews[oldest.task.preview_id] = taken
            return replace(oldest.task, sequence=state.books[oldest.task.codebook].last_sequence + 1)

    def answer_preview(self, worker: str, preview_id: str, answer: PreviewAnswer) -> None:
        """Answer a preview; NotFound ``unknown_preview`` once it is over, FailedPrecondition ``claim_lost``."""
        with self._storage.write() as state:
            preview = _find(state, preview_id)
            if preview.worker != worker:
                raise FailedPrecondition(f"Another worker has preview {preview_id}.", code="claim_lost")
            state.previews[preview_id] = replace(preview, answer=answer)


def _find(state: State, preview_id: str) -> Preview:
    found = state.previews.get(preview_id)
    if found is None:
        raise NotFound(f"There is no preview {preview_id}.", code="unknown_preview")
    return found
