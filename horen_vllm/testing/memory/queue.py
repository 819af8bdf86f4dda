"""The queue of edits in memory: what workers take, and what they report."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from horen_vllm.errors import FailedPrecondition
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import MAX_ATTEMPTS, Claim, EditRecord, EditState, Publication
from horen_vllm.testing.memory.attempts import (
    FAILED,
    GIVEN_BACK,
    LEASE_EXPIRED,
    PUBLISHED,
    begin_attempt,
    end_attempts,
)
from horen_vllm.testing.memory.changes import record, worker_caller
from horen_vllm.testing.memory.claims import book_of, claim_of, find_held, handed_out, leased, require_held
from horen_vllm.testing.memory.edits import MemoryEdits
from horen_vllm.testing.memory.publishing import (
    finished,
    publish_all,
    published,
    require_edits,
    require_revision,
)
from horen_vllm.testing.memory.retirement import MemoryRetirement
from horen_vllm.testing.memory.state import Edit, State


class MemoryQueue(MemoryEdits, MemoryRetirement):
    """`ports.EditQueue` in memory."""

    def claim(self, worker: str, *, lease_s: float, fingerprint: str, limit: int = 1) -> tuple[Claim, ...]:
        """Take at most `limit` edits from the head of one codebook's queue, in order, for `lease_s` seconds."""
        with self._storage.write() as state:
            now = self._clock()
            while (head := _next_head(state, fingerprint, now)) is not None:
                if head.record.attempt < MAX_ATTEMPTS:
                    front = [head] if head.record.attempt else state.queue(head.record.codebook)[:limit]
                    for edit in front:
                        begin_attempt(state, edit.record.edit_id, worker, now)
                    return tuple(claim_of(state.put(handed_out(edit, worker, now, lease_s))) for edit in front)
                _give_up(state, head, now)
            return ()

    def extend(self, claims: Sequence[Claim], *, lease_s: float) -> tuple[Claim, ...]:
        """Move the leases' ends; return the claims that still hold, in their order."""
        if not claims:
            return ()
        with self._storage.write() as state:
            book_of(state, claims)
            now = self._clock()
            held = find_held(state, claims)
            edits = [held[claim.edit.edit_id] for claim in claims if claim.edit.edit_id in held]
            return tuple(claim_of(state.put(leased(edit, now, lease_s))) for edit in edits)

    def trained(self, claims: Sequence[Claim]) -> None:
        """Mark the edits as TRAINED, however often, all or none."""
        if not claims:
            return
        with self._storage.write() as state:
            book_of(state, claims)
            for edit in require_held(state, claims):
                record = replace(edit.record, state=EditState.TRAINED, updated_at=self._clock())
                state.put(replace(edit, record=record))

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Make the edits of the claims that still hold COMMITTED again, an attempt less; their leases stay."""
        if not claims:
            return
        with self._storage.write() as state:
            book_of(state, claims)
            held = find_held(state, claims)
            end_attempts(state, held, GIVEN_BACK, self._clock())
            for edit in held.values():
                attempt = edit.record.attempt - 1
                record = replace(edit.record, state=EditState.COMMITTED, attempt=attempt, updated_at=self._clock())
                state.put(replace(edit, record=record, worker=None))

    def publish(self, batch: Sequence[tuple[Claim, Publication]]) -> tuple[EditRecord, ...]:
        """Make one revision an edit, in order; all or none of them."""
        if not batch:
            return ()
        claims = [claim for claim, _ in batch]
        with self._storage.write() as state:
            book = book_of(state, claims)
            edits = require_held(state, claims)
            publications = [publication for _, publication in batch]
            now = self._clock()
            publish_all(state, book, list(zip(edits, publications, strict=True)), now)
            made = [state.edits[claim.edit.edit_id] for claim in claims]
            for edit in made:
                _end(state, edit, "publish", PUBLISHED, now)
            return tuple(state.shown(edit) for edit in made)

    def finish_same(self, claim: Claim, same_as: EditId) -> EditRecord:
        """Close the edit as already there: PUBLISHED at the current revision, without an entry of its own."""
        with self._storage.write() as state:
            book = book_of(state, (claim,))
            (edit,) = require_held(state, (claim,))
            require_edits(state, book, (same_as,))
            if same_as not in book.current:
                message = f"The entry of edit {same_as} is not in revision {book.record.revision} any more."
                raise FailedPrecondition(message, code="revision_moved")
            # Whoever has the entry now may have it from another edit, which was the first to say so.
            first = state.edits[same_as].record.same_as or same_as
            now = self._clock()
            edit = replace(edit, record=replace(edit.record, same_as=first))
            edit = state.put(published(edit, book.record.revision, now))
            _end(state, edit, "publish", PUBLISHED, now)
            return state.shown(edit)

    def fail(self, claim: Claim, code: str, reason: str, *, base_revision: int | None = None) -> EditRecord:
        """Close the edit as FAILED with its reason."""
        with self._storage.write() as state:
            book = book_of(state, (claim,))
            (edit,) = require_held(state, (claim,))
            if base_revision is not None:
                require_revision(book, base_revision, book.record.revision)
            return _fail(state, edit, code=code, reason=reason, now=self._clock(), outcome=FAILED)


def _next_head(state: State, fingerprint: str, now: datetime) -> Edit | None:
    """Return the oldest head of a queue for this base model that nobody holds."""
    there = [book.record for book in state.books.values() if book.record.deleted_at is None]
    heads = [_head(state, it.name) for it in there if it.fingerprint == fingerprint]
    unheld = [it for it in heads if it and (it.lease_expires_at is None or it.lease_expires_at <= now)]
    return min(unheld, key=lambda it: (it.record.created_at, it.record.edit_id), default=None)


def _head(state: State, name: CodebookName) -> Edit | None:
    return next(iter(state.queue(name)), None)


def _give_up(state: State, edit: Edit, now: datetime) -> None:
    times = edit.record.attempt
    reason = f"the edit was taken {times} times and never finished; its last worker was {edit.worker!r}."
    _fail(state, edit, code="attempts_exhausted", reason=reason, now=now, outcome=LEASE_EXPIRED)


def _fail(state: State, edit: Edit, *, code: str, reason: str, now: datetime, outcome: str) -> EditRecord:
    edit = replace(edit, record=replace(edit.record, reason_code=code, reason=reason))
    edit = state.put(finished(edit, EditState.FAILED, now))
    _end(state, edit, "fail", outcome, now)
    return edit.record


def _end(state: State, edit: Edit, act: str, outcome: str, now: datetime) -> None:
    """Note how a worker's attempt at an edit ended, and what it did."""
    it = edit.record
    end_attempts(state, (it.edit_id,), outcome, now)
    detail = {"revision": it.published_revision} if it.reason_code is None else {"code": it.reason_code}
    resource, caller = f"{it.codebook}/edits/{it.edit_id}", worker_caller(edit.worker)
    record(state, act, tenant=it.codebook.tenant, resource=resource, now=now, detail=detail, caller=caller)
