"""Attempts in memory: each time that a worker took an edit, and how that ended."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from horen_vllm.ids import EditId
from horen_vllm.registry.models import AttemptRecord
from horen_vllm.testing.memory.state import State

PUBLISHED = "published"
FAILED = "failed"
GIVEN_BACK = "given_back"
LEASE_EXPIRED = "lease_expired"
RETIRED = "retired"


def begin_attempt(state: State, edit_id: EditId, worker: str, now: datetime) -> None:
    """Note that `worker` takes an edit; whoever had it before has let his lease expire."""
    end_attempts(state, (edit_id,), LEASE_EXPIRED, now)
    before = state.attempts.get(edit_id, ())
    begun = AttemptRecord(number=len(before) + 1, worker=worker, started_at=now, ended_at=None, outcome=None)
    state.attempts[edit_id] = (*before, begun)


def end_attempts(state: State, edits: Iterable[EditId], outcome: str, now: datetime) -> None:
    """Note how the running attempts at these edits ended; does nothing for edits that nobody has."""
    for edit_id in edits:
        *others, last = state.attempts.get(edit_id, (None,))
        if last is not None and last.ended_at is None:
            kept = tuple(it for it in others if it is not None)
            state.attempts[edit_id] = (*kept, replace(last, ended_at=now, outcome=outcome))
