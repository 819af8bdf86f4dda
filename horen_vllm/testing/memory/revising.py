"""How a codebook in memory comes to its next revision."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from horen_vllm.errors import NotFound
from horen_vllm.ids import EditId
from horen_vllm.registry.differences import ChangeKind, ChangeRecord, DiffRecord
from horen_vllm.registry.models import EntryRef, RevisionKind, RevisionRecord
from horen_vllm.testing.memory.state import Book, State


def add_revision(
    book: Book,
    members: frozenset[EditId],
    *,
    kind: RevisionKind,
    now: datetime,
    edit_id: EditId | None = None,
    restored: int | None = None,
    threshold: float | None = None,
) -> Book:
    """Return the codebook at a new revision with the entries of `members`; InvalidArgument ``invalid_parameter``.

    Parameters
    ----------
    threshold
        c of the revision; None: that of the one before.
    """
    parameters = book.record.parameters
    if threshold is not None:
        parameters = replace(parameters, threshold=threshold)
    revision = RevisionRecord(
        codebook=book.record.name,
        number=book.record.revision + 1,
        kind=kind,
        edit_id=edit_id,
        restored=restored,
        entry_count=len(members),
        threshold=parameters.threshold,
        created_at=now,
    )
    record = replace(book.record, parameters=parameters, revision=revision.number, entry_count=len(members))
    revisions, all_members = (*book.revisions, revision), (*book.members, members)
    return replace(book, record=record, revisions=revisions, members=all_members)


def members_at(book: Book, number: int, *, nothing: bool = False) -> frozenset[EditId]:
    """Return the edits in revision `number`; with `nothing`, 0 stands for none at all.

    Raises
    ------
    NotFound
        ``unknown_revision``; ``revision_pruned``.
    """
    if nothing and number == 0:
        return frozenset()
    name = book.record.name
    if not 1 <= number <= book.record.revision:
        message = f"{name} has no revision {number}: its newest is {book.record.revision}."
        raise NotFound(message, code="unknown_revision")
    if number < book.record.oldest_revision:
        message = f"revision {number} of {name} is not kept any more: the oldest is {book.record.oldest_revision}."
        raise NotFound(message, code="revision_pruned")
    return book.members[number - 1]


def difference(state: State, book: Book, start: int, end: int) -> DiffRecord:
    """Return what differs between two revisions (from 0: nothing at all), by sequence."""
    before, after = members_at(book, start, nothing=True), members_at(book, end)
    changes = [_change(state, ChangeKind.ADDED, edit) for edit in after - before]
    changes += [_change(state, ChangeKind.REMOVED, edit) for edit in before - after]
    return DiffRecord(
        from_revision=start,
        to_revision=end,
        from_threshold=book.revisions[start - 1].threshold if start else None,
        to_threshold=book.revisions[end - 1].threshold,
        changes=tuple(sorted(changes, key=lambda it: it.sequence)),
    )


def entry_refs(state: State, members: Iterable[EditId]) -> tuple[EntryRef, ...]:
    """Return the entries of some edits by sequence."""
    records = sorted((state.edits[edit_id].record for edit_id in members), key=lambda it: it.sequence)
    refs = []
    for record in records:
        assert record.artifact is not None, "only published edits have entries"
        refs.append(EntryRef(edit_id=record.edit_id, sequence=record.sequence, artifact=record.artifact))
    return tuple(refs)


def _change(state: State, kind: ChangeKind, edit_id: EditId) -> ChangeRecord:
    record = state.edits[edit_id].record
    prompt, target = record.spec.prompt, record.spec.target
    return ChangeRecord(kind=kind, edit_id=edit_id, sequence=record.sequence, prompt=prompt, target=target)
