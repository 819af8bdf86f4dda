"""Which claims still hold: every write of a worker asks here first."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from horen_vllm.errors import FailedPrecondition, InvalidArgument, NotFound
from horen_vllm.ids import EditId
from horen_vllm.registry.models import Claim
from horen_vllm.registry.schema import CodebookRow, EditRow
from horen_vllm.registry.sql_store import find_codebook


def lock_codebook(session: Session, claims: Sequence[Claim]) -> CodebookRow:
    """Return the row of the one codebook that `claims` are of, locked until the commit.

    Raises
    ------
    InvalidArgument
        ``mixed_codebooks``.
    NotFound
        ``unknown_codebook``.
    """
    names = {claim.edit.codebook for claim in claims}
    if len(names) > 1:
        message = f"The claims of one call must be of one codebook; these are of {len(names)}."
        raise InvalidArgument(message, code="mixed_codebooks")
    return find_codebook(session, names.pop(), lock=True)


def find_held(session: Session, codebook: CodebookRow, claims: Sequence[Claim]) -> dict[EditId, EditRow]:
    """Return the locked rows of those `claims` that still hold, by edit."""
    queue = _queue_up_to(session, codebook, max(claim.edit.sequence for claim in claims))
    if queue and queue[0].attempt > 1:
        # It was handed out again, alone: whoever had taken it together with later edits has lost those, too.
        queue = queue[:1]
    rows = {row.edit_id: row for row in queue}
    return {claim.edit.edit_id: rows[claim.edit.edit_id] for claim in claims if _holds(claim, rows)}


def require_held(session: Session, codebook: CodebookRow, claims: Sequence[Claim]) -> list[EditRow]:
    """Return the locked rows of `claims`, in their order.

    Raises
    ------
    FailedPrecondition
        ``claim_lost``, when one of them does not hold any more.
    NotFound
        ``unknown_edit``, when one of them is of no edit of the codebook.
    """
    held = find_held(session, codebook, claims)
    for claim in claims:
        if claim.edit.edit_id not in held:
            raise _lost(session, codebook, claim)
    return [held[claim.edit.edit_id] for claim in claims]


def _queue_up_to(session: Session, codebook: CodebookRow, sequence: int) -> list[EditRow]:
    # Claims are made at the queue's front, so these are few. Locked in the queue's order, as `claim` does.
    query = (
        select(EditRow)
        .where(EditRow.codebook_id == codebook.id, EditRow.finished_at.is_(None), EditRow.sequence <= sequence)
        .order_by(EditRow.sequence)
        .with_for_update()
    )
    return list(session.scalars(query))


def _holds(claim: Claim, rows: dict[str, EditRow]) -> bool:
    row = rows.get(claim.edit.edit_id)
    return row is not None and (row.attempt, row.worker) == (claim.attempt, claim.worker)


def _lost(session: Session, codebook: CodebookRow, claim: Claim) -> FailedPrecondition | NotFound:
    edit_id = claim.edit.edit_id
    query = select(EditRow).where(EditRow.codebook_id == codebook.id, EditRow.edit_id == edit_id)
    row = session.scalars(query).one_or_none()
    if row is None:
        return NotFound(f"There is no edit {edit_id}.", code="unknown_edit")
    why = f"it is {row.state.value} at attempt {row.attempt}"
    if row.finished_at is None and _holds(claim, {edit_id: row}):
        why = "an earlier edit of its codebook was handed out again"
    message = f"Attempt {claim.attempt} of {claim.worker!r} no longer holds edit {edit_id}: {why}."
    return FailedPrecondition(message, code="claim_lost")
