"""How a codebook moves from one immutable revision to the next: intervals are closed and opened, never rewritten."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, and_, exists, insert, literal, select, update
from sqlalchemy.orm import Session, aliased

from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EntryRef, RevisionKind
from horen_vllm.registry.schema import CodebookRow, EditRow, MembershipRow, RevisionRow


def entries_at(session: Session, codebook: CodebookRow, revision: int) -> tuple[EntryRef, ...]:
    """Return the entries of `revision` by sequence."""
    return _entries(session, codebook, MembershipRow.contains(revision))


def entries_added(session: Session, codebook: CodebookRow, since: int) -> tuple[EntryRef, ...]:
    """Return the entries of the current revision that revision `since` lacks, by sequence."""
    return _entries(session, codebook, came_later(since, codebook.revision))


def entries_removed(session: Session, codebook: CodebookRow, since: int) -> tuple[EntryRef, ...]:
    """Return the entries of revision `since` that the current one lacks, by sequence."""
    return _entries(session, codebook, went_later(since, codebook.revision))


def came_later(earlier: int, later: int) -> ColumnElement[bool]:
    """Return the condition of the memberships in revision `later` whose edits `earlier` lacks: what began between."""
    return and_(
        MembershipRow.from_revision > earlier,
        MembershipRow.from_revision <= later,
        MembershipRow.contains(later),
        ~_edit_is_in(earlier),
    )


def went_later(earlier: int, later: int) -> ColumnElement[bool]:
    """Return the condition of the memberships in revision `earlier` whose edits `later` lacks: what ended between."""
    return and_(
        MembershipRow.to_revision > earlier,
        MembershipRow.to_revision <= later,
        MembershipRow.contains(earlier),
        ~_edit_is_in(later),
    )


def find_open_entries(session: Session, edits: Collection[EditId]) -> dict[str, MembershipRow]:
    """Return the memberships of those of `edits` whose entries are in their codebook's current revision, by edit."""
    if not edits:
        return {}
    query = select(MembershipRow).where(MembershipRow.to_revision.is_(None), MembershipRow.edit_id.in_(edits))
    return {row.edit_id: row for row in session.scalars(query)}


def close_entry(codebook: CodebookRow, entry: MembershipRow) -> None:
    """Leave the entry out of the next revision."""
    entry.to_revision = codebook.revision + 1


def open_entry(session: Session, codebook: CodebookRow, edit_id: str) -> MembershipRow:
    """Put the entry of `edit_id` into the next revision."""
    row = MembershipRow(codebook_id=codebook.id, edit_id=edit_id, from_revision=codebook.revision + 1)
    session.add(row)
    return row


def restore_entries(session: Session, codebook: CodebookRow, revision: int) -> None:
    """Give the next revision the entries of `revision`: close and open only what differs."""
    upcoming = codebook.revision + 1
    # What is opened is found before anything is closed; the two sets are disjoint.
    reopened = select(MembershipRow.codebook_id, MembershipRow.edit_id, literal(upcoming)).where(
        MembershipRow.codebook_id == codebook.id,
        MembershipRow.to_revision > revision,
        MembershipRow.contains(revision),
        ~_edit_is_in(codebook.revision),
    )
    session.execute(insert(MembershipRow).from_select(["codebook_id", "edit_id", "from_revision"], reopened))
    closing = (
        update(MembershipRow)
        .where(
            MembershipRow.codebook_id == codebook.id,
            MembershipRow.from_revision > revision,
            MembershipRow.contains(codebook.revision),
            ~_edit_is_in(revision),
        )
        .values(to_revision=upcoming)
        .execution_options(synchronize_session=False)
    )
    session.execute(closing)


def add_revision(
    session: Session,
    codebook: CodebookRow,
    *,
    kind: RevisionKind,
    entry_count: int,
    now: datetime,
    edit_id: str | None = None,
    restored: int | None = None,
    threshold: float | None = None,
) -> RevisionRow:
    """Move the codebook to its next revision, whose entries are already in place.

    Parameters
    ----------
    threshold
        c of the revision; None: that of the one before.

    Raises
    ------
    InvalidArgument
        ``invalid_parameter``, when `threshold` is no cosine.
    """
    if threshold is not None:
        _set_threshold(codebook, threshold)
    codebook.revision += 1
    codebook.entry_count = entry_count
    row = RevisionRow(
        codebook_id=codebook.id,
        number=codebook.revision,
        kind=kind,
        edit_id=edit_id,
        restored=restored,
        entry_count=entry_count,
        threshold=codebook.parameters["threshold"],
        created_at=now,
    )
    session.add(row)
    return row


def _set_threshold(codebook: CodebookRow, threshold: float) -> None:
    parameters = {**codebook.parameters, "threshold": threshold}
    MethodParameters.from_dict(parameters)  # what cannot be read back shall not be stored
    codebook.parameters = parameters


def _entries(session: Session, codebook: CodebookRow, *conditions: ColumnElement[bool]) -> tuple[EntryRef, ...]:
    query = (
        select(EditRow.edit_id, EditRow.sequence, EditRow.artifact)
        .join(MembershipRow, MembershipRow.edit_id == EditRow.edit_id)
        .where(MembershipRow.codebook_id == codebook.id, *conditions)
        .order_by(EditRow.sequence)
    )
    return tuple(_entry(edit_id, sequence, artifact) for edit_id, sequence, artifact in session.execute(query))


def _entry(edit_id: str, sequence: int, artifact: str | None) -> EntryRef:
    assert artifact is not None, "only published edits have memberships"
    return EntryRef(edit_id=EditId(edit_id), sequence=sequence, artifact=artifact)


def _edit_is_in(revision: int) -> ColumnElement[bool]:
    """Whether some interval of the outer row's edit contains `revision`."""
    other = aliased(MembershipRow)
    return exists().where(other.edit_id == MembershipRow.edit_id, other.contains(revision))
