"""What leaves a registry with a codebook's file, and what came of bringing it into another one.

An edit that travels is known by its *origin*, the id that it had where it was submitted: every registry gives it an id
of its own.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from horen_vllm.ids import EditId
from horen_vllm.registry.models import CodebookRecord, EditSpec


class PortableState(StrEnum):
    """What an edit is in the revision that was exported."""

    ACTIVE = "active"
    """It has an entry there."""
    INACTIVE = "inactive"
    """It was published, and has no entry there."""
    RETIRED = "retired"
    """It was retired, before or after that revision: a tombstone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortableEdit:
    """An edit of a codebook's file."""

    origin: EditId
    edit_id: EditId
    """Its id in the registry that exported it; what its artifact, and the artifacts of others, call it."""
    sequence: int
    """Its place among the edits of the file."""
    spec: EditSpec
    state: PortableState
    artifact: str | None
    """Content hash of its entry; None for one that never had its own."""
    alias_of: EditId | None
    """Origin of the edit whose value it reuses."""
    same_as: EditId | None
    """Origin of the edit that already said the same."""
    supersedes: tuple[EditId, ...]
    """Origins of the edits that it replaced."""
    expires_at: datetime | None
    retired_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedEdit:
    """An edit of a file on its way into a registry."""

    edit: PortableEdit
    edit_id: EditId
    """The id that it gets here, if it is not known."""
    artifact: str | None
    """Content hash of its entry as it was stored for that id, or for the one by which it is known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportCounts:
    """What an import did with the edits of its file."""

    added: int = 0
    """Entries that came in."""
    already_there: int = 0
    """Entries of the file that were there."""
    kept_retired: int = 0
    """Entries of the file that had been retired here, and stay so."""
    retired: int = 0
    """Entries that were there and that the file says are retired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRecord:
    """What an import made."""

    codebook: CodebookRecord
    """The codebook after it."""
    counts: ImportCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownOrigin:
    """An edit of a file that the codebook has already."""

    edit_id: EditId
    wants_entry: bool
    """Whether it is neither active nor retired: then an import brings its entry back."""
