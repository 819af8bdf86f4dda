"""What differs between two revisions of a codebook."""

from dataclasses import dataclass
from enum import StrEnum

from horen_vllm.ids import EditId


class ChangeKind(StrEnum):
    """Which of two revisions has an entry."""

    ADDED = "added"
    """The one that the difference arrives at."""
    REMOVED = "removed"
    """The one that it starts from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRecord:
    """An entry that one of two revisions has."""

    kind: ChangeKind
    edit_id: EditId
    sequence: int
    prompt: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRecord:
    """The difference of two revisions, or a part of it."""

    from_revision: int
    """0: nothing at all."""
    to_revision: int
    from_threshold: float | None
    """None for nothing at all."""
    to_threshold: float
    changes: tuple[ChangeRecord, ...]
    """By sequence."""
