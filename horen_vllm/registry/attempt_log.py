"""Attempts: each time that a worker took an edit, and how that ended."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from horen_vllm.ids import EditId
from horen_vllm.registry.models import AttemptRecord
from horen_vllm.registry.schema import AttemptRow, EditRow

PUBLISHED = "published"
FAILED = "failed"
GIVEN_BACK = "given_back"
LEASE_EXPIRED = "lease_expired"
RETIRED = "retired"


def begin_attempts(session: Session, rows: Sequence[EditRow], worker: str, now: datetime) -> None:
    """Note that `worker` takes these edits; whoever had them before has let his lease expire."""
    edits = [row.edit_id for row in rows]
    # Claims that were given back do not count as attempts of the edit, but they were some all the same.
    numbers = select(AttemptRow.edit_id, func.max(AttemptRow.number)).where(AttemptRow.edit_id.in_(edits))
    last = {row.edit_id: row[1] for row in session.execute(numbers.group_by(AttemptRow.edit_id))}
    end_attempts(session, last, LEASE_EXPIRED, now)
    begun = [{"edit_id": edit, "number": last.get(edit, 0) + 1, "worker": worker, "started_at": now} for edit in edits]
    session.execute(insert(AttemptRow), begun)


def end_attempts(session: Session, edits: Collection[str], outcome: str, now: datetime) -> None:
    """Note how the running attempts at these edits ended; does nothing for edits that nobody has."""
    if edits:
        running = (AttemptRow.edit_id.in_(edits), AttemptRow.ended_at.is_(None))
        ended = update(AttemptRow).where(*running).values(ended_at=now, outcome=outcome)
        session.execute(ended.execution_options(synchronize_session=False))


def attempts_at(session: Session, edit_id: EditId) -> Sequence[AttemptRecord]:
    """Return the attempts at an edit, oldest first."""
    query = select(AttemptRow).where(AttemptRow.edit_id == edit_id).order_by(AttemptRow.number)
    return [
        AttemptRecord(
            number=row.number,
            worker=row.worker,
            started_at=row.started_at,
            ended_at=row.ended_at,
            outcome=row.outcome,
        )
        for row in session.scalars(query)
    ]
