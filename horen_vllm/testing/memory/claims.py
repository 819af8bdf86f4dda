"""Which claims still hold in memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from horen_vllm.errors import FailedPrecondition, InvalidArgument, NotFound
from horen_vllm.ids import EditId
from horen_vllm.registry.models import Claim, EditState
from horen_vllm.testing.memory.state import Book, Edit, State


def book_of(state: State, claims: Sequence[Claim]) -> Book:
    """Return the one codebook that `claims` are of; InvalidArgument ``mixed_codebooks``."""
    names = {claim.edit.codebook for claim in claims}
    if len(names) > 1:
        message = f"The claims of one call must be of one codebook; these are of {len(names)}."
        raise InvalidArgument(message, code="mixed_codebooks")
    return state.book(names.pop())


def find_held(state: State, claims: Sequence[Claim]) -> dict[EditId, Edit]:
    """Return the edits of those `claims` that still hold; all are of one codebook."""
    last = max(claim.edit.sequence for claim in claims)
    queue = [it for it in state.queue(claims[0].edit.codebook) if it.record.sequence <= last]
    if queue and queue[0].record.attempt > 1:
        # It was handed out again, alone: whoever had taken it together with later edits has lost those, too.
        queue = queue[:1]
    edits = {it.record.edit_id: it for it in queue}
    held = [claim.edit.edit_id for claim in claims if _holds(claim, edits.get(claim.edit.edit_id))]
    return {edit_id: edits[edit_id] for edit_id in held}


def require_held(state: State, claims: Sequence[Claim]) -> list[Edit]:
    """Return the edits of `claims`, in their order; FailedPrecondition ``claim_lost``, NotFound ``unknown_edit``."""
    held = find_held(state, claims)
    for claim in claims:
        if claim.edit.edit_id not in held:
            raise _lost(state, claim)
    return [held[claim.edit.edit_id] for claim in claims]


def leased(edit: Edit, now: datetime, lease_s: float) -> Edit:
    """Return the edit with a lease until `lease_s` seconds from now."""
    record = replace(edit.record, updated_at=now)
    return replace(edit, record=record, lease_expires_at=now + timedelta(seconds=lease_s))


def handed_out(edit: Edit, worker: str, now: datetime, lease_s: float) -> Edit:
    """Return the edit as `worker` takes it."""
    record = replace(edit.record, state=EditState.TRAINING, attempt=edit.record.attempt + 1)
    return leased(replace(edit, record=record, worker=worker), now, lease_s)


def claim_of(edit: Edit) -> Claim:
    """Return the claim of the worker that holds an edit."""
    assert edit.worker is not None, "a claimed edit has a worker"
    assert edit.lease_expires_at is not None, "a claimed edit has a lease"
    return Claim(
        edit=edit.record, worker=edit.worker, attempt=edit.record.attempt, lease_expires_at=edit.lease_expires_at
    )


def _holds(claim: Claim, edit: Edit | None) -> bool:
    return edit is not None and (edit.record.attempt, edit.worker) == (claim.attempt, claim.worker)


def _lost(state: State, claim: Claim) -> FailedPrecondition | NotFound:
    edit_id = claim.edit.edit_id
    edit = state.edits.get(edit_id)
    if edit is None or edit.record.codebook != claim.edit.codebook:
        return NotFound(f"There is no edit {edit_id}.", code="unknown_edit")
    why = f"it is {edit.record.state.value} at attempt {edit.record.attempt}"
    if not edit.finished and _holds(claim, edit):
        why = "an earlier edit of its codebook was handed out again"
    message = f"Attempt {claim.attempt} of {claim.worker!r} no longer holds edit {edit_id}: {why}."
    return FailedPrecondition(message, code="claim_lost")
