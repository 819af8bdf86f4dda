"""What a run needs of a control plane, in words of its own: whoever starts the run brings something that does it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pydantic import JsonValue


class EditStatus(StrEnum):
    """How far an edit has come, as far as a run cares."""

    PENDING = "pending"
    """Stored, not trained and published yet."""
    PUBLISHED = "published"
    """Part of the codebook's current revision."""
    FAILED = "failed"
    """Given up."""
    INACTIVE = "inactive"
    """Was published, and another edit or a rollback took it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One edit to submit; the same request id within a day is stored once."""

    prompt: str
    target: str
    subject: str | None = None
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of one submission: an edit, or why there is none."""

    index: int
    """Its place among the submissions of the call, from 0."""
    edit_id: str | None = None
    code: str | None = None
    """Stable code of the refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditState:
    """One stored edit as it is now."""

    edit_id: str
    sequence: int
    prompt: str
    target: str
    status: EditStatus
    code: str | None = None
    """Why it failed, or a note on it such as ``already_answered``."""
    same_as: str | None = None
    """The edit that already said the same, and answers for it."""
    seconds: float | None = None
    """From when it was stored until it was published or had failed; None while neither happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BookState:
    """A codebook as it is now."""

    revision: int
    """1 is the empty one."""
    entries: int
    threshold: float
    model: str
    """Name under which the base model is served."""
    fingerprint: str = ""
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    served: bool = False
    """Whether every live server has applied the revision, whatever its probes say."""
    refusal: tuple[str, str] | None = None
    """Code and sentence of a server that cannot take the revision."""
    anchored_threshold: float | None = None
    """Threshold of edits with a subject; None where no entry is bound to one."""


class EditControl(Protocol):
    """A control plane; every method raises the `HorenError` of its refusal, and Unavailable when it does not answer."""

    def create(self, book: str, preset: str, threshold: float | None, *, request_id: str) -> BookState:
        """Make an empty codebook."""
        ...

    def find(self, book: str) -> BookState | None:
        """Return a codebook, or None when there is none."""
        ...

    def submit(self, book: str, submissions: Iterable[Submission]) -> Iterator[Submitted]:
        """Store edits in order and yield what becomes of each, in order; one that is refused stops no other.

        Raises
        ------
        HorenError
            What is no fault of the edits.
        """
        ...

    def oldest_pending(self, book: str) -> int | None:
        """Return the sequence number of the oldest edit that is still to be trained or published."""
        ...

    def edits(self, book: str) -> Iterator[EditState]:
        """Yield all edits of a codebook, oldest first."""
        ...

    def rollback(self, book: str, revision: int, *, request_id: str) -> int:
        """Make a revision with exactly the entries of `revision`, and return its number."""
        ...

    def same(self, book: str, first: int, second: int) -> bool:
        """Return whether two revisions have the same entries and the same threshold."""
        ...
