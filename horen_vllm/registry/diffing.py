"""The difference of two revisions in SQL: it reads what began or ended between them, whatever the codebook's size."""

from collections.abc import Iterable
from heapq import merge
from itertools import islice
from typing import Final

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from horen_vllm.ids import EditId
from horen_vllm.registry.differences import ChangeKind, ChangeRecord, DiffRecord
from horen_vllm.registry.revisioning import came_later, went_later
from horen_vllm.registry.schema import CodebookRow, EditRow, MembershipRow, RevisionRow

_MANY: Final = 5_000
"""Changes from which on a page is looked for among the edits."""


def difference(
    session: Session,
    codebook: CodebookRow,
    start: int,
    end: int,
    *,
    after_sequence: int,
    limit: int,
) -> DiffRecord:
    """Return at most `limit` changes from revision `start` to `end`, by sequence, after `after_sequence`."""
    first, last = min(start, end), max(start, end)
    gained, lost = came_later(first, last), went_later(first, last)
    added, removed = (gained, lost) if start <= end else (lost, gained)

    def changes(kind: ChangeKind, condition: ColumnElement[bool]) -> Iterable[ChangeRecord]:
        return _changes(session, codebook, kind, condition, after_sequence, limit)

    both = merge(
        changes(ChangeKind.ADDED, added),
        changes(ChangeKind.REMOVED, removed),
        key=lambda change: change.sequence,
    )
    return DiffRecord(
        from_revision=start,
        to_revision=end,
        from_threshold=session.get_one(RevisionRow, (codebook.id, start)).threshold if start else None,
        to_threshold=session.get_one(RevisionRow, (codebook.id, end)).threshold,
        changes=tuple(islice(both, limit)),
    )


def _changes(
    session: Session,
    codebook: CodebookRow,
    kind: ChangeKind,
    condition: ColumnElement[bool],
    after_sequence: int,
    limit: int,
) -> list[ChangeRecord]:
    query = select(EditRow.edit_id, EditRow.sequence, EditRow.prompt, EditRow.target)
    same = MembershipRow.edit_id == EditRow.edit_id
    if _are_many(session, codebook, condition):
        # By the edits in their order: each page would sort all of them otherwise.
        query = query.where(EditRow.codebook_id == codebook.id, exists().where(same, condition))
    else:
        query = query.join(MembershipRow, same).where(MembershipRow.codebook_id == codebook.id, condition)
    query = query.where(EditRow.sequence > after_sequence).order_by(EditRow.sequence).limit(limit)
    return [
        ChangeRecord(kind=kind, edit_id=EditId(edit_id), sequence=sequence, prompt=prompt, target=target)
        for edit_id, sequence, prompt, target in session.execute(query)
    ]


def _are_many(session: Session, codebook: CodebookRow, condition: ColumnElement[bool]) -> bool:
    some = select(MembershipRow.id).where(MembershipRow.codebook_id == codebook.id, condition).limit(_MANY).subquery()
    return session.scalar(select(func.count()).select_from(some)) == _MANY
