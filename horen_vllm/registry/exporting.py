"""What an export says of a codebook's edits, in SQL: read page by page, by sequence."""

from collections.abc import Iterable, Sequence

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from horen_vllm.ids import EditId
from horen_vllm.registry.models import EditState
from horen_vllm.registry.portable import PortableEdit, PortableState
from horen_vllm.registry.records import edit_spec
from horen_vllm.registry.schema import CodebookRow, EditRow, MembershipRow


def portable_edits(
    session: Session, codebook: CodebookRow, revision: int, *, after_sequence: int, limit: int
) -> Sequence[PortableEdit]:
    """Return at most `limit` edits that were ever published or retired, with a greater sequence, oldest first."""
    within = exists().where(MembershipRow.edit_id == EditRow.edit_id, MembershipRow.contains(revision))
    query = (
        select(EditRow, within)
        .where(
            EditRow.codebook_id == codebook.id,
            EditRow.sequence > after_sequence,
            or_(EditRow.state == EditState.PUBLISHED, EditRow.retired_at.is_not(None)),
        )
        .order_by(EditRow.sequence)
        .limit(limit)
    )
    found = [(row, contained) for row, contained in session.execute(query)]
    origins = _origins(session, {edit for row, _ in found for edit in _named(row)})
    return [_portable(row, origins, within=contained) for row, contained in found]


def _named(row: EditRow) -> Iterable[str]:
    return (edit for edit in (row.alias_of, row.same_as, *row.supersedes) if edit is not None)


def _origins(session: Session, edits: set[str]) -> dict[str, EditId]:
    query = select(EditRow.edit_id, EditRow.origin).where(EditRow.edit_id.in_(edits))
    return {edit_id: EditId(origin) for edit_id, origin in session.execute(query)} if edits else {}


def _portable(row: EditRow, origins: dict[str, EditId], *, within: bool) -> PortableEdit:
    # A tombstone also where the edit was retired after the revision: what was taken back is not to come in elsewhere.
    state = PortableState.INACTIVE
    if row.retired_at is not None:
        state = PortableState.RETIRED
    elif within:
        state = PortableState.ACTIVE
    return PortableEdit(
        origin=EditId(row.origin),
        edit_id=EditId(row.edit_id),
        sequence=row.sequence,
        spec=edit_spec(row),
        state=state,
        artifact=row.artifact,
        alias_of=None if row.alias_of is None else origins[row.alias_of],
        same_as=None if row.same_as is None else origins[row.same_as],
        supersedes=tuple(origins[edit] for edit in row.supersedes),
        expires_at=row.expires_at,
        retired_at=row.retired_at,
    )
