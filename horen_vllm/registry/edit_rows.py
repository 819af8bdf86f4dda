"""Queries on edits that the queue is built from."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from horen_vllm.errors import NotFound
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EditRecord
from horen_vllm.registry.records import codebook_name, edit_record
from horen_vllm.registry.schema import CodebookRow, EditRow, MembershipRow


def edits_with_state() -> Select[EditRow, CodebookRow, bool]:
    """Return the query for edits, each with its codebook and whether its entry is in the current revision."""
    active = exists().where(MembershipRow.edit_id == EditRow.edit_id, MembershipRow.to_revision.is_(None))
    return select(EditRow, CodebookRow, active).join(CodebookRow, CodebookRow.id == EditRow.codebook_id)


def find_edit(session: Session, edit_id: str) -> EditRecord:
    """Return the record of an edit.

    Raises
    ------
    NotFound
        ``unknown_edit``.
    """
    found = edit_records(session, session.execute(edits_with_state().where(EditRow.edit_id == edit_id)))
    if not found:
        raise NotFound(f"There is no edit {edit_id}.", code="unknown_edit")
    return found[0]


def edit_records(session: Session, found: Iterable[Any]) -> list[EditRecord]:
    """Return the records of what `edits_with_state` found, in order."""
    rows = [tuple(it) for it in found]
    saying = answering(session, {row.same_as for row, _, active in rows if row.same_as is not None and not active})
    return [
        edit_record(
            row,
            codebook_name(codebook),
            active=active,
            answered_by=None if active or row.retired_at or row.same_as is None else saying.get(row.same_as),
        )
        for row, codebook, active in rows
    ]


def answering(session: Session, first: Collection[str]) -> dict[str, EditId]:
    """Return the edits whose entries say now what the edits `first` said, by the latter.

    That is an edit itself while it is active; when it was retired, one of those that are the same as it.
    """
    if not first:
        return {}
    said = func.coalesce(EditRow.same_as, EditRow.edit_id)
    query = (
        select(said, EditRow.edit_id)
        .join(MembershipRow, MembershipRow.edit_id == EditRow.edit_id)
        .where(
            or_(EditRow.edit_id.in_(first), EditRow.same_as.in_(first)),
            MembershipRow.to_revision.is_(None),
        )
    )
    return {said_first: EditId(edit_id) for said_first, edit_id in session.execute(query)}


def claimable(fingerprint: str, now: datetime) -> Select[EditRow, CodebookRow]:
    """Return the query for the oldest head of a codebook's queue that nobody holds at `now`."""
    unheld = or_(EditRow.lease_expires_at.is_(None), EditRow.lease_expires_at <= now)
    return (
        select(EditRow, CodebookRow)
        .join(CodebookRow, CodebookRow.id == EditRow.codebook_id)
        .where(
            CodebookRow.fingerprint == fingerprint,
            CodebookRow.deleted_at.is_(None),
            EditRow.edit_id == _queue_head(),
            # PostgreSQL tests the row again once it has the lock, and another worker may have finished it meanwhile.
            EditRow.finished_at.is_(None),
            unheld,
        )
        .order_by(EditRow.created_at, EditRow.edit_id)
        .limit(1)
    )


def locked_claimable(fingerprint: str, now: datetime) -> Select[EditRow, CodebookRow]:
    """Return the query for the oldest `claimable` edit that no other transaction has locked; it locks it."""
    return claimable(fingerprint, now).with_for_update(skip_locked=True, of=EditRow)


def queue_front(codebook: CodebookRow, limit: int) -> Select[EditRow]:
    """Return the query for the codebook's `limit` oldest unfinished edits, locked, in order."""
    return (
        select(EditRow)
        .where(EditRow.codebook_id == codebook.id, EditRow.finished_at.is_(None))
        .order_by(EditRow.sequence)
        .limit(limit)
        .with_for_update()
    )


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
