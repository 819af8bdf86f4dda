"""Records that the registry hands out: frozen, transport-free, the same for every store."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import CodebookName, EditId, TenantId

MAX_ATTEMPTS: Final = 5
"""Times that an edit is handed out to a worker before it is given up."""


class EditState(StrEnum):
    """How far an edit has come (architecture.md, *Acknowledgements*); SERVING is the control plane's to derive."""

    COMMITTED = "committed"
    TRAINING = "training"
    TRAINED = "trained"
    PUBLISHED = "published"
    FAILED = "failed"


class RevisionKind(StrEnum):
    """What made a revision."""

    CREATE = "create"
    PUBLISH = "publish"
    RETIRE = "retire"
    ROLLBACK = "rollback"
    IMPORT = "import"
    THRESHOLD = "threshold"
    """Computed anew after entries had gone."""


class KeyScope(StrEnum):
    """What a key opens."""

    READ = "read"
    """A tenant's models."""
    EDIT = "edit"
    """A tenant's models and edits."""
    ADMIN = "admin"
    """Everything; such a key has no tenant."""
    REPLICA = "replica"
    """What a serving replica needs; such a key has no tenant."""


class ArtifactState(StrEnum):
    """Whether the artifact store may lose a file."""

    LIVE = "live"
    CONDEMNED = "condemned"
    """Nothing needed it when it was last looked at."""
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """A client's name for one change, by which it may ask for it again."""

    tenant: TenantId | None
    """Whose ids these are; None: the operator's."""
    method: str
    """Name of the call, such as ``SubmitEdit``."""
    request_id: str
    digest: str
    """sha256 (hex) of the request without its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditSpec:
    """What a user submits."""

    prompt: str
    target: str
    subject: str | None = None
    aliases: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    must_not_fire: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookRecord:
    """A codebook as it is now."""

    name: CodebookName
    model: str
    """Name under which the base model is served."""
    fingerprint: str
    """Fingerprint of the base model that the keys are valid for."""
    site: str
    """Module name of the edit site."""
    parameters: MethodParameters
    """Its threshold is the current revision's."""
    revision: int
    """Current revision; 1 is the empty codebook."""
    entry_count: int
    """Entries in the current revision."""
    created_at: datetime
    deleted_at: datetime | None = None
    oldest_revision: int = 1
    """Oldest revision that can be restored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRecord:
    """An edit and its whole story."""

    edit_id: EditId
    codebook: CodebookName
    sequence: int
    """Grows with every edit of the codebook; of equal scores the higher one wins."""
    spec: EditSpec
    state: EditState
    reason_code: str | None
    """Why it failed, or, of a published edit, a note on it such as ``already_answered``: a stable slug."""
    reason: str | None
    """The same as one sentence with the numbers."""
    attempt: int
    """Times that a worker has claimed it."""
    artifact: str | None
    """Content hash (sha256, hex) of its entry; None before publication and when it was already there."""
    same_as: EditId | None
    """The edit that already said the same (same prompt, same target); then there is no entry of its own."""
    alias_of: EditId | None
    """The edit whose value this entry reuses (overlapping basin, same target)."""
    supersedes: tuple[EditId, ...]
    """Edits with the same normalised prompt whose entries this one replaced."""
    overlaps: tuple[EditId, ...]
    """Edits with another target into whose basin the prompt falls."""
    published_revision: int | None
    """Revision that first contained it."""
    active: bool
    """Whether its entry is part of the current revision."""
    created_at: datetime
    updated_at: datetime
    published_at: datetime | None
    expires_at: datetime | None = None
    """When it is retired by itself."""
    retired_at: datetime | None = None
    answered_by: EditId | None = None
    """Of an edit that is `same_as` another one: the edit whose entry in the current revision says it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRef:
    """An entry of one revision, by the edit that made it and the content hash of its artifact."""

    edit_id: EditId
    sequence: int
    artifact: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRecord:
    """One immutable state of a codebook."""

    codebook: CodebookName
    number: int
    kind: RevisionKind
    edit_id: EditId | None
    """The edit that was published or retired; None for the others."""
    restored: int | None
    """The revision that a rollback restored."""
    entry_count: int
    threshold: float
    """c: an entry matches when its score is greater than this cosine."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What changed in a codebook between two revisions; ``base == 0`` stands for nothing at all.

    The codebook comes with it as it is at the later one, with that revision's threshold.
    """

    codebook: CodebookRecord
    base: int
    revision: int
    added: tuple[EntryRef, ...]
    removed: tuple[EditId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worker's right to finish one edit.

    It is nobody else's before the lease ends, and void once the edit, or an earlier one of its codebook that is still
    unfinished, was handed out again: edits of a codebook are finished in order.
    """

    edit: EditRecord
    worker: str
    attempt: int
    """Fencing token: every write of the claim is refused when the edit's attempt has moved on."""
    lease_expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a worker wants the next revision to contain for its claim."""

    artifact: str
    base_revision: int
    """Revision the entry was verified against; publishing fails if the codebook has moved on."""
    supersedes: tuple[EditId, ...] = ()
    alias_of: EditId | None = None
    overlaps: tuple[EditId, ...] = ()
    reason_code: str | None = None
    """Slug of a note that the published edit keeps, such as ``already_answered``."""
    reason: str | None = None
    """The note as one sentence."""
    threshold: float | None = None
    """c of the revision that it makes, and of the later ones; None: that of the revision before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """What a calibration found for one base model."""

    fingerprint: str
    """Base model that it was made on."""
    site: str
    """Edit site that it was made at."""
    version: int
    """1, 2, 3... for each base model."""
    presets: dict[str, MethodParameters]
    """Calibrated parameters by preset."""
    recommended: str
    """Preset that a codebook gets whose owner names none."""
    summary: dict[str, Any]
    """Numbers of the comparison, as JSON."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedProbe:
    """An edit that a replica serves and that does not answer its own prompt there."""

    codebook: CodebookName
    edit_id: EditId
    base: int
    """Revision that the update with the edit started from."""
    revision: int
    """Revision that the update with the edit led to."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRevision:
    """A revision that a replica could not take; it serves the one before."""

    codebook: CodebookName
    revision: int
    code: str
    """Stable slug."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """What a replica says of itself."""

    applied: dict[CodebookName, int]
    """Revision that it serves."""
    probed: dict[CodebookName, int]
    """Revision up to which it has asked its own engine what the added edits should answer."""
    failed_probes: tuple[FailedProbe, ...] = ()
    refused: tuple[RefusedRevision, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRecord:
    """A server with an unexpired lease and what it last said of itself."""

    replica_id: str
    model: str
    fingerprint: str
    report: ReplicaReport
    lease_expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRecord:
    """Who owns codebooks."""

    name: TenantId
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """An API key; its secret is known to its owner only."""

    key_id: str
    """Also the part of the secret that may be shown."""
    tenant: TenantId | None
    """Whose data it opens; None for an admin key."""
    scope: KeyScope
    created_at: datetime
    expires_at: datetime | None
    """None: it does not expire."""
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One time that a worker took an edit."""

    number: int
    """1, 2, 3..."""
    worker: str
    started_at: datetime
    ended_at: datetime | None
    """None: it runs."""
    outcome: str | None
    """``published``, ``failed``, ``given_back``, ``lease_expired`` or ``retired``; None: it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRecord:
    """What a tenant may use; None: no limit."""

    tenant: TenantId
    max_codebooks: int | None = None
    max_entries: int | None = None
    """Entries and unfinished edits in all codebooks together."""
    max_pending: int | None = None
    """Unfinished edits."""
    edits_per_minute: int | None = None
    """Edits submitted in any 60 seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """What a tenant uses."""

    codebooks: int
    entries: int
    pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """Something that was done."""

    number: int
    """Grows with every event."""
    created_at: datetime
    actor: str
    method: str
    tenant: TenantId | None
    resource: str
    call_id: str | None
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryCounts:
    """How much there is, over all tenants: what an operator watches."""

    unfinished: dict[EditState, int]
    """Edits that are neither published nor failed, by state; a state without any may be missing."""
    oldest_unfinished_s: float
    """Age in seconds of the oldest of them; 0: there is none."""
    claimed: int
    """Those of them that a worker with an unexpired lease holds."""
    workers: int
    """Workers with such leases."""
    live_replicas: int
    """Replicas with an unexpired lease."""
    codebooks: int
    """Codebooks, without deleted ones."""
    audit_events: int
    """Number of the newest event in the audit log."""
