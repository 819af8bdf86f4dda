"""Edits in memory as their users see them."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from horen_vllm.errors import HorenError, NotFound
from horen_vllm.ids import CodebookName, EditId, new_edit_id
from horen_vllm.registry.models import AttemptRecord, EditRecord, EditSpec, EditState, RequestKey
from horen_vllm.registry.submission import Submission
from horen_vllm.testing.memory.changes import SUBMITTED, record, remember, replayed
from horen_vllm.testing.memory.quotas import require_submission
from horen_vllm.testing.memory.state import Edit, MemoryStore, State


class MemoryEdits(MemoryStore):
    """The half of `ports.EditQueue` that users need, in memory."""

    def submit(
        self,
        name: CodebookName,
        spec: EditSpec,
        *,
        request: RequestKey | None = None,
        ttl_s: float | None = None,
        validate_only: bool = False,
    ) -> EditRecord:
        """Store an edit as COMMITTED; AlreadyExists ``request_id_reused``, ResourceExhausted ``quota_exceeded``."""
        submission = Submission(codebook=name, spec=spec, request=request, ttl_s=ttl_s)
        (outcome,) = self.submit_many((submission,), validate_only=validate_only)
        if isinstance(outcome, HorenError):
            raise outcome
        return outcome

    def submit_many(
        self, submissions: Sequence[Submission], *, validate_only: bool = False
    ) -> tuple[EditRecord | HorenError, ...]:
        """Do `submit` for several edits, in order: each has its record, or its own error."""
        with self._storage.write(validate_only=validate_only) as state:
            known, now = set(state.edits), self._clock()
            outcomes = tuple(_outcome(state, submission, now) for submission in submissions)
        return tuple(_draft(it, known) for it in outcomes) if validate_only else outcomes

    def get_edit(self, edit_id: EditId) -> EditRecord:
        """Return an edit; NotFound ``unknown_edit``."""
        return find_edit(self._storage.now, edit_id)

    def list_edits(
        self,
        name: CodebookName,
        *,
        after_sequence: int = 0,
        limit: int = 1000,
        states: Collection[EditState] = (),
    ) -> Sequence[EditRecord]:
        """Return at most `limit` edits of the codebook (in one of `states`) with a greater sequence, oldest first."""
        state = self._storage.now
        state.book(name)
        later = [it for it in state.edits_of(name) if it.record.sequence > after_sequence]
        return [state.shown(it) for it in later if not states or it.record.state in states][:limit]

    def attempts(self, edit_id: EditId) -> Sequence[AttemptRecord]:
        """Return the times that workers have taken an edit, oldest first."""
        return self._storage.now.attempts.get(edit_id, ())


def find_edit(state: State, edit_id: EditId) -> EditRecord:
    """Return an edit as it is now; NotFound ``unknown_edit``."""
    found = state.edits.get(edit_id)
    if found is None:
        raise NotFound(f"There is no edit {edit_id}.", code="unknown_edit")
    return state.shown(found)


def _outcome(state: State, submission: Submission, now: datetime) -> EditRecord | HorenError:
    try:
        first = replayed(state, submission.request, now)
        if first is not None:
            return find_edit(state, EditId(first))
        state.book(submission.codebook)
        require_submission(state, submission.codebook.tenant, now)
    except HorenError as error:
        return error
    return _store(state, submission, now)


def _store(state: State, submission: Submission, now: datetime) -> EditRecord:
    book = state.book(submission.codebook)
    sequence = book.last_sequence + 1
    state.books[submission.codebook] = replace(book, last_sequence=sequence)
    made = _new_record(submission, sequence, now)
    state.put(Edit(record=made, origin=made.edit_id))
    resource = f"{submission.codebook}/edits/{made.edit_id}"
    record(
        state,
        SUBMITTED,
        tenant=submission.codebook.tenant,
        resource=resource,
        now=now,
        detail={"sequence": sequence},
        caller=submission.caller,
    )
    remember(state, submission.request, made.edit_id, now)
    return made


def _draft(outcome: EditRecord | HorenError, known: set[EditId]) -> EditRecord | HorenError:
    made = isinstance(outcome, EditRecord) and outcome.edit_id not in known
    return replace(outcome, edit_id=EditId("")) if made and isinstance(outcome, EditRecord) else outcome


def _new_record(submission: Submission, sequence: int, now: datetime) -> EditRecord:
    return EditRecord(
        edit_id=new_edit_id(),
        codebook=submission.codebook,
        sequence=sequence,
        spec=submission.spec,
        state=EditState.COMMITTED,
        reason_code=None,
        reason=None,
        attempt=0,
        artifact=None,
        same_as=None,
        alias_of=None,
        supersedes=(),
        overlaps=(),
        published_revision=None,
        active=False,
        created_at=now,
        updated_at=now,
        published_at=None,
        expires_at=None if submission.ttl_s is None else now + timedelta(seconds=submission.ttl_s),
    )
