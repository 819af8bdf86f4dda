"""A codebook as sets: what a registry must do, in as few words as can be, to compare it with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from horen_vllm.ids import EditId
from horen_vllm.registry.models import MAX_ATTEMPTS, EditState


@dataclass(eq=False)
class ModelEdit:
    """An edit, and what the queue knows of it."""

    edit_id: EditId
    expires_at: datetime | None
    state: EditState = EditState.COMMITTED
    attempt: int = 0
    worker: str = ""
    lease_ends: datetime | None = None
    retired: bool = False
    first: EditId | None = None
    """The edit that already said the same."""

    @property
    def finished(self) -> bool:
        return self.state in {EditState.PUBLISHED, EditState.FAILED}


@dataclass(frozen=True)
class ModelClaim:
    """A worker's right to one edit."""

    edit: ModelEdit
    worker: str
    attempt: int


@dataclass(eq=False)
class ModelBook:
    """A codebook: its edits by sequence, and the edits that each of its revisions has."""

    now: Callable[[], datetime]
    edits: list[ModelEdit] = field(default_factory=list)
    revisions: list[frozenset[EditId]] = field(default_factory=lambda: [frozenset()])

    @property
    def current(self) -> frozenset[EditId]:
        return self.revisions[-1]

    @property
    def queue(self) -> list[ModelEdit]:
        return [edit for edit in self.edits if not edit.finished]

    def claim(self, worker: str, limit: int, lease_s: float) -> list[ModelClaim]:
        while self.queue and not self._held(self.queue[0]):
            head = self.queue[0]
            if head.attempt == MAX_ATTEMPTS:
                head.state = EditState.FAILED
                continue
            taken = [head] if head.attempt else self.queue[:limit]
            for edit in taken:
                edit.state, edit.worker, edit.attempt = EditState.TRAINING, worker, edit.attempt + 1
                edit.lease_ends = self.now() + timedelta(seconds=lease_s)
            return [ModelClaim(edit, worker, edit.attempt) for edit in taken]
        return []

    def holds(self, claim: ModelClaim) -> bool:
        """A head that is in its second attempt was handed out alone: nobody holds what stands behind it."""
        edit = claim.edit
        if edit.finished or (edit.worker, edit.attempt) != (claim.worker, claim.attempt):
            return False
        head = self.queue[0]
        return head is edit or head.attempt <= 1

    def publish(self, edit: ModelEdit, superseded: set[EditId]) -> None:
        edit.state = EditState.PUBLISHED
        self.revisions.append((self.current - superseded) | {edit.edit_id})

    def retire(self, edit: ModelEdit) -> None:
        edit.retired = True
        if not edit.finished:
            edit.state = EditState.FAILED
        elif edit.edit_id in self.current:
            same = [it for it in self.edits if it.first == (edit.first or edit.edit_id) and it is not edit]
            heirs = [it.edit_id for it in same if not it.retired and not self.expired(it)]
            self.revisions.append((self.current - {edit.edit_id}) | set(heirs[:1]))

    def roll_back(self, to: int) -> None:
        came = self.revisions[to - 1] - self.current
        self.revisions.append(self.revisions[to - 1])
        for edit in [it for it in self.edits if it.edit_id in came]:
            edit.retired = False
        for edit in [it for it in self.edits if it.edit_id in came and self.expired(it)]:
            self.retire(edit)

    def retire_expired(self) -> None:
        for edit in self.edits:
            if self.expired(edit) and not edit.retired:
                self.retire(edit)

    def expired(self, edit: ModelEdit) -> bool:
        return edit.expires_at is not None and edit.expires_at <= self.now()

    def _held(self, edit: ModelEdit) -> bool:
        return edit.lease_ends is not None and edit.lease_ends > self.now()
