"""Queries on edits that the queue is built from."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, Select, exists, or_, select
from sqlalchemy.orm import Session, aliased

from horen_vllm.errors import NotFound
from horen_vllm.ids import EditId
from horen_vllm.registry.schema import CodebookRow, EditRow, MembershipRow


def edits_with_state() -> Select[EditRow, CodebookRow, bool]:
    """Return the query for edits, each with its codebook and whether its entry is in the current revision."""
    active = exists().where(MembershipRow.edit_id == EditRow.edit_id, MembershipRow.to_revision.is_(None))
    return select(EditRow, CodebookRow, active).join(CodebookRow, CodebookRow.id == EditRow.codebook_id)


def claimable(fingerprint: str, now: datetime) -> Select[EditRow, CodebookRow]:
    """Return the query for the oldest head of a codebook's queue that nobody holds at `now`, locked."""
    unheld = or_(EditRow.lease_expires_at.is_(None), EditRow.lease_expires_at <= now)
    return (
        select(EditRow, CodebookRow)
        .join(CodebookRow, CodebookRow.id == EditRow.codebook_id)
        .where(
            CodebookRow.fingerprint == fingerprint,
            EditRow.edit_id == _queue_head(),
            # PostgreSQL tests the row again once it has the lock, and another worker may have finished it meanwhile.
            EditRow.finished_at.is_(None),
            unheld,
        )
        .order_by(EditRow.created_at, EditRow.edit_id)
        .limit(1)
        .with_for_update(skip_locked=True, of=EditRow)
    )


def queue_front(codebook: CodebookRow, limit: int) -> Select[EditRow]:
    """Return the query for the codebook's `limit` oldest unfinished edits, locked, in order."""
    return (
        select(EditRow)
        .where(EditRow.codebook_id == codebook.id, EditRow.finished_at.is_(None))
        .order_by(EditRow.sequence)
        .limit(limit)
        .with_for_update()
    )


def edit_by_request(session: Session, codebook: CodebookRow, request_id: str) -> EditRow | None:
    """Return the codebook's edit that was submitted with `request_id`, if any."""
    query = select(EditRow).where(EditRow.codebook_id == codebook.id, EditRow.request_id == request_id)
    return session.scalars(query).one_or_none()


def is_active(session: Session, edit_id: str) -> bool:
    """Return whether the edit's entry is in its codebook's current revision."""
    query = select(exists().where(MembershipRow.edit_id == edit_id, MembershipRow.to_revision.is_(None)))
    return bool(session.scalar(query))


def require_edits(session: Session, codebook: CodebookRow, edits: Collection[EditId]) -> None:
    """Check that the codebook has all of `edits`.

    Raises
    ------
    NotFound
        ``unknown_edit``.
    """
    # By the edits alone: given the codebook, too, SQLite would read all of its edits.
    query = select(EditRow.edit_id, EditRow.codebook_id).where(EditRow.edit_id.in_(edits))
    found = {edit_id for edit_id, owner in session.execute(query) if owner == codebook.id} if edits else set()
    missing = set(edits) - found
    if missing:
        raise NotFound(f"The codebook has no edit {min(missing)}.", code="unknown_edit")


def _queue_head() -> ColumnElement[str]:
    """Return the subquery for the oldest unfinished edit of the outer query's codebook."""
    waiting = aliased(EditRow)
    return (
        select(waiting.edit_id)
        .where(waiting.codebook_id == CodebookRow.id, waiting.finished_at.is_(None))
        .order_by(waiting.sequence)
        .limit(1)
        .correlate(CodebookRow)
        .scalar_subquery()
    )
