"""Views: what the control plane says about codebooks, edits and revisions; frozen, free of gRPC."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import HorenError
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import (
    AttemptRecord,
    EditSpec,
    EntryRef,
    KeyRecord,
    QuotaRecord,
    RevisionKind,
    UsageRecord,
)
from horen_vllm.registry.preview_records import PreviewVerdict


class EditProgress(StrEnum):
    """How far an edit has come, replicas included; in the order in which an edit passes them."""

    COMMITTED = "committed"
    """Stored durably."""
    TRAINING = "training"
    """A worker trains its value."""
    TRAINED = "trained"
    """Trained and verified, not yet part of a revision."""
    PUBLISHED = "published"
    """Part of the current revision; not every live replica has it, or none is alive."""
    SERVING = "serving"
    """Part of the current revision, and every live replica (>= 1) answers with it."""
    FAILED = "failed"
    """Given up."""
    INACTIVE = "inactive"
    """Was published, is not part of the current revision."""

    @property
    def final(self) -> bool:
        """Whether the edit moves on from here only if a rollback brings it back."""
        return self in {EditProgress.SERVING, EditProgress.FAILED, EditProgress.INACTIVE}

    def reached(self, other: "EditProgress") -> bool:
        """Return whether this is `other` or a later state; FAILED and INACTIVE are later than all."""
        order = list(EditProgress)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaProblem:
    """Trouble that one replica has with one codebook."""

    replica_id: str
    revision: int
    """Revision that it concerns."""
    code: str
    """``probe_failed``, or why the replica refused the revision."""
    message: str
    edit_id: EditId | None = None
    """The edit that did not give its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookView:
    """A codebook as it is now, and how many replicas serve its current revision."""

    name: CodebookName
    model: str
    """Name under which the base model is served."""
    fingerprint: str
    """Fingerprint of the base model."""
    site: str
    """Module name of the edit site."""
    parameters: MethodParameters
    """Its threshold is the current revision's."""
    revision: int
    """Current revision; 1 is the empty codebook."""
    entry_count: int
    """Entries in the current revision."""
    created_at: datetime
    replicas_total: int = 0
    """Live replicas of the base model."""
    replicas_serving: int = 0
    """Live replicas that have applied the current revision and asked themselves about what it added."""
    problems: tuple[ReplicaProblem, ...] = ()
    """What stands between the current revision and its being served."""
    deleted_at: datetime | None = None
    """None: it is there."""
    oldest_revision: int = 1
    """Oldest revision that can be restored."""
    etag: str = ""
    """Changes whenever what a client decides on does; for `etag` arguments and as a watch's cursor."""

    @property
    def serving(self) -> bool:
        """Whether every live replica (>= 1) has applied the current revision."""
        return 0 < self.replicas_total == self.replicas_serving


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportView:
    """What an import did."""

    codebook: CodebookView
    """The codebook after it."""
    added: int
    """Entries that came in."""
    already_there: int
    """Entries of the file that were there."""
    kept_retired: int
    """Entries of the file that had been retired here, and stay so."""
    retired: int
    """Entries that were there and that the file says are retired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionView:
    """One immutable state of a codebook, and how many replicas have applied it or a later one."""

    codebook: CodebookName
    number: int
    kind: RevisionKind
    edit_id: EditId | None
    """The edit that was published or retired."""
    restored: int | None
    """The revision that a rollback restored."""
    entry_count: int
    threshold: float
    """c of this revision."""
    created_at: datetime
    serving: bool
    """Whether every live replica (>= 1) has applied it or a later one."""
    replicas_total: int
    replicas_serving: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EditView:
    """An edit and its whole story."""

    codebook: CodebookName
    edit_id: EditId
    sequence: int
    """Grows with every edit of the codebook."""
    spec: EditSpec
    state: EditProgress
    reason_code: str | None
    """Why it failed, or is PUBLISHED and not yet SERVING (``probe_failed``), or else a note on a published edit
    (``already_answered``): a stable slug."""
    reason: str | None
    """The same as one sentence."""
    same_as: EditId | None
    """The edit that already said the same."""
    alias_of: EditId | None
    """The edit whose value it reuses."""
    supersedes: tuple[EditId, ...]
    """Edits that it replaced."""
    overlaps: tuple[EditId, ...]
    """Edits with another target into whose basin its prompt falls."""
    published_revision: int | None
    """Revision that first contained its entry (for `same_as`, that edit's entry)."""
    active: bool
    """Whether that entry is part of the current revision."""
    created_at: datetime
    updated_at: datetime
    published_at: datetime | None
    replicas_serving: int
    """Live replicas that answer with it."""
    replicas_total: int
    """Live replicas of the base model."""
    expires_at: datetime | None = None
    """When it is retired by itself; None: never."""
    retired_at: datetime | None = None
    """When it was retired; None: it was not, or a rollback brought it back."""
    etag: str = ""
    """Changes whenever its state does; for `etag` arguments and as a watch's cursor."""
    attempts: tuple[AttemptRecord, ...] = ()
    """Times that a worker has taken it, oldest first; only where one edit was asked for."""

    @property
    def name(self) -> str:
        """Resource name ``tenants/T/codebooks/C/edits/E``; empty for an edit that was checked only."""
        return f"{self.codebook}/edits/{self.edit_id}" if self.edit_id else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollisionView:
    """A text of a previewed edit that another edit's entry matches, or nearly."""

    edit_id: EditId
    """The other edit."""
    text: str
    """The edit's prompt, a paraphrase or a must-not-fire prompt."""
    score: float
    """Score of the text with the other edit's entry, a cosine."""
    threshold: float
    """What the entry's score must exceed."""
    prompt: str
    """The other edit's."""
    target: str
    """The other edit's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewView:
    """What would become of an edit."""

    verdict: PreviewVerdict
    revision: int
    """Revision that it was compared with."""
    related: tuple[EditId, ...]
    """The edits that SAME, ALIAS and SUPERSEDES are about."""
    collisions: tuple[CollisionView, ...]
    """Entries of other targets that it touches, nearest first."""
    refusal_code: str | None
    refusal: str | None
    """Why it would be refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaView:
    """What a tenant may use and what it uses."""

    quota: QuotaRecord
    usage: UsageRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOutcome:
    """What became of one edit of a stream."""

    index: int
    """Its place in the stream, from 0."""
    edit: EditView | None = None
    """The edit, if it was stored."""
    error: HorenError | None = None
    """Why it was refused, if it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey:
    """A key that has just been made, and its secret, which is never shown again."""

    key: KeyRecord
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaView:
    """What changed in one codebook for a replica."""

    codebook: CodebookView
    base: int
    """Revision that the delta starts from; 0: what the replica has is to be replaced."""
    revision: int
    """Revision that it leads to."""
    added: tuple[EntryRef, ...]
    removed: tuple[EditId, ...]

    def followed_by(self, further: "DeltaView") -> "DeltaView | None":
        """Return both as one.

        None where `further` does not start where this one leads, or brings back what this one takes.
        """
        if further.base == 0:
            return further
        mine, theirs = ({entry.edit_id for entry in delta.added} for delta in (self, further))
        gone = set(further.removed)
        if further.base != self.revision or theirs & ((mine - gone) | set(self.removed)):
            return None
        return replace(
            further,
            base=self.base,
            added=(*(entry for entry in self.added if entry.edit_id not in gone), *further.added),
            removed=(*self.removed, *(edit for edit in further.removed if edit not in mine)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncView:
    """What a replica does not know yet; falsy when there is nothing."""

    deltas: tuple[DeltaView, ...] = ()
    removed_codebooks: tuple[CodebookName, ...] = ()
    """Known codebooks that are no longer there for this base model."""
    epoch: str = ""
    """What the revisions belong to; after a restore from a backup it is another one."""
    more: bool = False
    """Whether other codebooks have changed, too, for which there was no room."""

    def followed_by(self, further: "SyncView") -> "SyncView":
        """Return both as one; of a codebook that both tell of, what this one tells."""
        told = {delta.codebook.name for delta in self.deltas}
        return replace(
            further,
            deltas=(*self.deltas, *(delta for delta in further.deltas if delta.codebook.name not in told)),
            removed_codebooks=tuple(dict.fromkeys((*self.removed_codebooks, *further.removed_codebooks))),
        )

    def __bool__(self) -> bool:
        """Whether anything changed."""
        return bool(self.deltas or self.removed_codebooks)
