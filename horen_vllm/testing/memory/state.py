"""What the registry in memory holds, and how it changes: a draft is made, changed, and put in its place as a whole."""

import copy
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime

from horen_vllm.errors import NotFound
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId, TenantId
from horen_vllm.registry.models import (
    AttemptRecord,
    AuditRecord,
    CalibrationRecord,
    CodebookRecord,
    EditRecord,
    KeyRecord,
    QuotaRecord,
    ReplicaRecord,
    RequestKey,
    RevisionRecord,
    TenantRecord,
)
from horen_vllm.registry.preview_records import PreviewAnswer, PreviewTask

Clock = Callable[[], datetime]
"""Returns the present time, with its zone."""


def utc_now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """A codebook with all its revisions."""

    record: CodebookRecord
    last_sequence: int
    revisions: tuple[RevisionRecord, ...]
    """Number 1 comes first."""
    members: tuple[frozenset[EditId], ...]
    """The edits whose entries each revision has; number 1 comes first."""
    threshold_due: bool = False
    """Whether entries went without their threshold being computed anew."""

    @property
    def current(self) -> frozenset[EditId]:
        """The edits whose entries the current revision has."""
        return self.members[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An edit with what only the queue knows of it."""

    record: EditRecord
    """Its `active` and `answered_by` are of no meaning: the codebook's current revision decides."""
    origin: EditId
    """The id that it had where it was submitted; its own unless it was imported."""
    worker: str | None = None
    lease_expires_at: datetime | None = None
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRequest:
    """A request id that was used."""

    key: RequestKey
    reference: str
    """What was made: an edit's id, a revision's number, a name."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A question to the workers, and what became of it."""

    task: PreviewTask
    """Its `sequence` is of no meaning until it is handed out."""
    expires_at: datetime
    worker: str | None = None
    lease_expires_at: datetime | None = None
    answer: PreviewAnswer | None = None


@dataclass(slots=True, kw_only=True)
class State:
    """Everything; whoever writes changes a copy of it. The values of the collections are immutable."""

    books: dict[CodebookName, Book] = field(default_factory=dict)
    edits: dict[EditId, Edit] = field(default_factory=dict)
    replicas: dict[str, ReplicaRecord] = field(default_factory=dict)
    tenants: dict[TenantId, TenantRecord] = field(default_factory=dict)
    keys: dict[str, KeyRecord] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """Keys' ids by their digests."""
    calibrations: list[CalibrationRecord] = field(default_factory=list)
    requests: dict[tuple[TenantId | None, str], KnownRequest] = field(default_factory=dict)
    """By tenant and id."""
    audit: list[AuditRecord] = field(default_factory=list)
    """Number 1 comes first."""
    attempts: dict[EditId, tuple[AttemptRecord, ...]] = field(default_factory=dict)
    """Oldest first."""
    quotas: dict[TenantId, QuotaRecord] = field(default_factory=dict)
    previews: dict[str, Preview] = field(default_factory=dict)
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)

    def draft(self) -> "State":
        """Return a copy that can be changed without changing this one."""
        return State(**{it.name: copy.copy(getattr(self, it.name)) for it in fields(self)})

    def book(self, name: CodebookName, *, deleted: bool = False) -> Book:
        """Return a codebook (a deleted one only with `deleted`); NotFound ``unknown_codebook``."""
        found = self.books.get(name)
        if found is None or (found.record.deleted_at is not None and not deleted):
            raise NotFound(f"There is no codebook {name}.", code="unknown_codebook")
        return found

    def edits_of(self, name: CodebookName) -> list[Edit]:
        """Return the edits of a codebook by sequence."""
        return sorted((it for it in self.edits.values() if it.record.codebook == name), key=_sequence)

    def queue(self, name: CodebookName) -> list[Edit]:
        """Return the unfinished edits of a codebook by sequence."""
        return [it for it in self.edits_of(name) if not it.finished]

    def shown(self, edit: Edit) -> EditRecord:
        """Return the record of an edit as it is now."""
        record = edit.record
        active = record.edit_id in self.books[record.codebook].current
        unanswered = active or record.retired_at is not None or record.same_as is None
        return replace(record, active=active, answered_by=None if unanswered else self._saying(record))

    def _saying(self, record: EditRecord) -> EditId | None:
        """Return the edit whose entry says now what the edit that `record` is the same as said first."""
        entries = [self.edits[it].record for it in self.books[record.codebook].current]
        saying = [it.edit_id for it in entries if record.same_as in (it.edit_id, it.same_as)]
        return saying[0] if saying else None

    def put(self, edit: Edit) -> Edit:
        """Store an edit, instead of what was stored of it before."""
        self.edits[edit.record.edit_id] = edit
        return edit


class Storage:
    """What several registries share, as processes share a database.

    Parameters
    ----------
    clock
        Returns the present time; it dates the tenant that is always there.
    """

    def __init__(self, clock: Clock = utc_now) -> None:
        self._lock = threading.Lock()
        default = TenantRecord(name=DEFAULT_TENANT, created_at=clock())
        self._state = State(tenants={DEFAULT_TENANT: default})

    @property
    def now(self) -> State:
        """What is there; nobody changes it any more."""
        return self._state

    @contextmanager
    def write(self, *, validate_only: bool = False) -> Iterator[State]:
        """Give a draft that becomes the state at the end; one writer at a time.

        It is forgotten on any error, and always with `validate_only`.
        """
        with self._lock:
            draft = self._state.draft()
            yield draft
            if not validate_only:
                self._state = draft


class MemoryStore:
    """A store on one storage, with its own idea of the present time."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock


def _sequence(edit: Edit) -> int:
    return edit.record.sequence
