"""What retirement does in memory to an edit, to its entry, and to those who said the same."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.audit import Caller
from horen_vllm.registry.models import EditState, RevisionKind
from horen_vllm.testing.memory.attempts import RETIRED, end_attempts
from horen_vllm.testing.memory.changes import record
from horen_vllm.testing.memory.publishing import finished
from horen_vllm.testing.memory.revising import add_revision
from horen_vllm.testing.memory.state import Edit, State

EXPIRY: Final = Caller(actor="ttl")
"""Who retires the edits whose time has passed."""
_TAKEN_BACK = "the edit was retired before it was published."


def retire(state: State, edit_id: EditId, now: datetime, *, caller: Caller | None = None) -> None:
    """Retire an edit that is not retired; `caller` None: for whoever is asking."""
    edit = state.edits[edit_id]
    name = edit.record.codebook
    before = state.books[name].record.revision
    if edit.finished:
        mark_retired(state, edit, now, since=now)
        _leave(state, edit_id, now)
    else:
        take_back(state, edit, now)
    revision = state.books[name].record.revision
    detail = {"revision": revision} if revision != before else {}
    resource = f"{name}/edits/{edit_id}"
    record(state, "RetireEdit", tenant=name.tenant, resource=resource, now=now, detail=detail, caller=caller)


def revive(state: State, name: CodebookName, now: datetime) -> None:
    """Make retired edits that the newest revision brought back live again, but for those that have expired."""
    book = state.books[name]
    came_back = [state.edits[it] for it in book.current - book.members[-2]]
    for edit in came_back:
        if edit.record.retired_at is not None:
            state.put(replace(edit, record=replace(edit.record, retired_at=None, updated_at=now)))
    state.books[name] = replace(book, threshold_due=False)
    for edit_id in expired(came_back, now):
        retire(state, edit_id, now, caller=EXPIRY)
        edit = state.edits[edit_id]
        assert edit.record.expires_at is not None, "only edits with an end expire"
        mark_retired(state, edit, now, since=max(now, edit.record.expires_at))


def expired(edits: Iterable[Edit], now: datetime) -> list[EditId]:
    """Return those of `edits` whose time has passed, now or when they were retired for it, by sequence."""
    records = sorted((it.record for it in edits), key=lambda it: it.sequence)
    return [
        it.edit_id for it in records if it.expires_at is not None and it.expires_at <= max(now, it.retired_at or now)
    ]


def mark_retired(state: State, edit: Edit, now: datetime, *, since: datetime) -> None:
    """Note that an edit is retired since `since`, without any other change."""
    state.put(replace(edit, record=replace(edit.record, retired_at=since, updated_at=now)))


def take_back(state: State, edit: Edit, now: datetime) -> None:
    """Close an unfinished edit as FAILED, ``retired``, whoever holds it."""
    record_ = replace(edit.record, retired_at=now, reason_code=RETIRED, reason=_TAKEN_BACK)
    state.put(finished(replace(edit, record=record_), EditState.FAILED, now))
    end_attempts(state, (edit.record.edit_id,), RETIRED, now)


@dataclass(frozen=True, slots=True)
class Departure:
    """An entry that the next revision lacks."""

    heir: EditId | None
    """Whose entry it becomes; None: nobody's."""
    members: frozenset[EditId]
    """The edits whose entries the next revision has."""


def leave_next(state: State, members: frozenset[EditId], edit_id: EditId, now: datetime) -> Departure | None:
    """Leave an edit's entry out of the next revision, or give it to the edit that said the same.

    Parameters
    ----------
    members
        The edits whose entries the next revision was to have.

    Returns
    -------
    Departure | None
        None when the edit is none of them.
    """
    if edit_id not in members:
        return None
    edit = state.edits[edit_id]
    book = state.books[edit.record.codebook]
    heir = _heir(state, edit, now)
    if heir is None:
        follows = book.record.parameters.false_fire_rate is not None
        state.books[book.record.name] = replace(book, threshold_due=book.threshold_due or follows)
        return Departure(None, members - {edit_id})
    number = book.record.revision + 1
    inherited = replace(heir.record, artifact=edit.record.artifact, published_revision=number, updated_at=now)
    state.put(replace(heir, record=inherited))
    return Departure(inherited.edit_id, (members - {edit_id}) | {inherited.edit_id})


def _leave(state: State, edit_id: EditId, now: datetime) -> None:
    name = state.edits[edit_id].record.codebook
    left = leave_next(state, state.books[name].current, edit_id, now)
    if left is not None:
        book = state.books[name]
        state.books[name] = add_revision(book, left.members, kind=RevisionKind.RETIRE, now=now, edit_id=edit_id)


def _heir(state: State, edit: Edit, now: datetime) -> Edit | None:
    """Return the oldest edit that said the same, without an entry of its own, and is not taken back."""
    first = edit.record.same_as or edit.record.edit_id
    same = [it for it in state.edits.values() if it.record.same_as == first and it is not edit]
    live = [it for it in same if it.record.state is EditState.PUBLISHED and it.record.retired_at is None]
    dead = set(expired(live, now))
    return min((it for it in live if it.record.edit_id not in dead), key=lambda it: it.record.sequence, default=None)
