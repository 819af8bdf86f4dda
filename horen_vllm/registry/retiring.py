"""Taking edits back: what retirement does to an edit, to its entry, and to those who said the same.

Whoever makes a revision out of an older one calls `revive_edits` afterwards; everybody else calls `retire_row`.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import not_, or_, select, update
from sqlalchemy.orm import Session

from horen_vllm.ids import EditId
from horen_vllm.registry.attempt_log import RETIRED, end_attempts
from horen_vllm.registry.audit import Caller
from horen_vllm.registry.audit_log import record
from horen_vllm.registry.models import EditState, RevisionKind
from horen_vllm.registry.publishing import finish_row
from horen_vllm.registry.records import codebook_name
from horen_vllm.registry.revisioning import add_revision, close_entry, find_open_entries, open_entry
from horen_vllm.registry.schema import CodebookRow, EditRow, MembershipRow

EXPIRY: Caller = Caller(actor="ttl")
"""Who retires the edits whose time has passed."""
_TAKEN_BACK = "the edit was retired before it was published."


def retire_row(
    session: Session, codebook: CodebookRow, row: EditRow, now: datetime, *, caller: Caller | None = None
) -> None:
    """Retire an edit that is not retired.

    A published one that is active leaves the codebook in a revision of its own; an unfinished one is closed as FAILED,
    ``retired``, whoever holds it; any other is only marked. Where another edit said the same and has no entry of its
    own, the entry becomes that one's in the same revision.

    Parameters
    ----------
    codebook
        Its row, locked.
    row
        The edit's, locked, or of a codebook that is.
    caller
        Who retires it; None: whoever is asking.
    """
    before = codebook.revision
    if row.finished_at is None:
        take_back(session, row, now)
    else:
        row.retired_at = row.updated_at = now
        _leave(session, codebook, row, now)
    record(
        session,
        "RetireEdit",
        tenant=codebook.tenant,
        resource=f"{codebook_name(codebook)}/edits/{row.edit_id}",
        now=now,
        detail={"revision": codebook.revision} if codebook.revision != before else {},
        caller=caller,
    )


def revive_edits(session: Session, codebook: CodebookRow, now: datetime) -> None:
    """Make the retired edits that the new current revision brought back live again, but for those that have expired.

    Call it when the revision is there. Edits whose time has passed leave in revisions after it, so they never show;
    also when the clock was set back since they were retired for it.
    """
    session.flush()
    came_back = select(MembershipRow.edit_id).where(
        MembershipRow.codebook_id == codebook.id,
        MembershipRow.from_revision == codebook.revision,
        MembershipRow.to_revision.is_(None),
    )
    over = or_(EditRow.expires_at <= now, EditRow.retired_at >= EditRow.expires_at)
    has_time = or_(EditRow.expires_at.is_(None), not_(over))
    revived = update(EditRow).where(EditRow.edit_id.in_(came_back), EditRow.retired_at.is_not(None), has_time)
    session.execute(revived.values(retired_at=None, updated_at=now).execution_options(synchronize_session="fetch"))
    # The threshold is that of the older revision, which was right for its entries.
    codebook.threshold_due = False
    expired = select(EditRow).where(EditRow.edit_id.in_(came_back), over)
    for row in session.scalars(expired.order_by(EditRow.sequence).with_for_update()).all():
        retire_row(session, codebook, row, now, caller=EXPIRY)
        assert row.expires_at is not None, "only edits with an end expire"
        row.retired_at = max(now, row.expires_at)


def take_back(session: Session, row: EditRow, now: datetime) -> None:
    """Close an unfinished edit as FAILED, ``retired``, whoever holds it."""
    row.retired_at = row.updated_at = now
    row.reason_code, row.reason = RETIRED, _TAKEN_BACK
    finish_row(row, EditState.FAILED, now)
    end_attempts(session, (row.edit_id,), RETIRED, now)


@dataclass(frozen=True, slots=True)
class Departure:
    """An entry that the next revision lacks."""

    heir: EditId | None
    """Whose entry it becomes; None: nobody's, so that there is one less."""


def leave_next(session: Session, codebook: CodebookRow, row: EditRow, now: datetime) -> Departure | None:
    """Leave the edit's entry out of the next revision, or give it to the edit that said the same.

    Returns
    -------
    Departure | None
        None when the current revision does not have it.
    """
    entry = find_open_entries(session, (EditId(row.edit_id),)).get(row.edit_id)
    if entry is None:
        return None
    heir = _heir(session, row, now)
    close_entry(codebook, entry)
    if heir is None:
        codebook.threshold_due |= codebook.parameters.get("false_fire_rate") is not None
        return Departure(None)
    # Its keys and its value are the same, so neither answers nor thresholds change.
    heir.artifact, heir.published_revision, heir.updated_at = row.artifact, codebook.revision + 1, now
    open_entry(session, codebook, heir.edit_id)
    return Departure(EditId(heir.edit_id))


def _leave(session: Session, codebook: CodebookRow, row: EditRow, now: datetime) -> None:
    """Make a revision without the edit's entry, if the current one has it."""
    left = leave_next(session, codebook, row, now)
    if left is None:
        return
    add_revision(
        session,
        codebook,
        kind=RevisionKind.RETIRE,
        entry_count=codebook.entry_count - (left.heir is None),
        now=now,
        edit_id=row.edit_id,
    )
    session.flush()


def _heir(session: Session, row: EditRow, now: datetime) -> EditRow | None:
    """Return the oldest edit that said the same as `row`, without an entry of its own, and is not taken back."""
    query = (
        select(EditRow)
        .where(
            EditRow.same_as == (row.same_as or row.edit_id),
            EditRow.edit_id != row.edit_id,
            EditRow.state == EditState.PUBLISHED,
            EditRow.retired_at.is_(None),
            or_(EditRow.expires_at.is_(None), EditRow.expires_at > now),
        )
        .order_by(EditRow.sequence)
        .limit(1)
    )
    return session.scalars(query.with_for_update()).one_or_none()
