"""Ports: what the control plane and the editor worker need of a registry, whatever stores it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.differences import DiffRecord
from horen_vllm.registry.edit_ports import ArtifactRegister, EditQueue, PreviewStore, QuotaStore, ThresholdStore
from horen_vllm.registry.models import (
    AuditRecord,
    CalibrationRecord,
    CodebookRecord,
    Delta,
    EntryRef,
    KeyRecord,
    KeyScope,
    RegistryCounts,
    ReplicaRecord,
    ReplicaReport,
    RequestKey,
    RevisionRecord,
    TenantRecord,
)
from horen_vllm.registry.portable import ImportedEdit, ImportRecord, KnownOrigin, PortableEdit


class CodebookStore(Protocol):
    """Codebooks and their revisions. Every method raises NotFound ``unknown_codebook`` for a name it lacks.

    A method that takes a `request` answers its repetition, within a day, with what it made, as that is now; the same id
    with another request is AlreadyExists ``request_id_reused``. With `validate_only` everything is checked and nothing
    is stored; the answer is what would have been made.
    """

    def create_codebook(
        self,
        name: CodebookName,
        *,
        model: str,
        fingerprint: str,
        site: str,
        parameters: MethodParameters,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> CodebookRecord:
        """Create an empty codebook at revision 1.

        AlreadyExists ``codebook_exists`` if the name is taken, also by a deleted one.
        """
        ...

    def get_codebook(self, name: CodebookName) -> CodebookRecord:
        """Return the codebook as it is now, also a deleted one; every other method takes that for unknown."""
        ...

    def list_codebooks(self, tenant: TenantId | None = None, *, deleted: bool = False) -> Sequence[CodebookRecord]:
        """Return all codebooks (of `tenant`, when given) by name; with `deleted`, deleted ones, too."""
        ...

    def delete_codebook(
        self,
        name: CodebookName,
        *,
        etag: str | None = None,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> CodebookRecord:
        """Take a codebook away; its name stays taken, and its unfinished edits wait. Aborted ``etag_mismatch``."""
        ...

    def undelete_codebook(
        self,
        name: CodebookName,
        *,
        etag: str | None = None,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> CodebookRecord:
        """Bring a deleted codebook back as it was.

        AlreadyExists ``codebook_not_deleted`` for one that is there; Aborted ``etag_mismatch``.
        """
        ...

    def list_revisions(self, name: CodebookName, *, after: int = 0, limit: int = 1000) -> Sequence[RevisionRecord]:
        """Return revisions with a number greater than `after`, oldest first."""
        ...

    def entries(self, name: CodebookName, revision: int | None = None) -> Sequence[EntryRef]:
        """Return the entries of `revision` (default: current) by sequence.

        NotFound ``unknown_revision``, or ``revision_pruned`` for one that is not kept any more.
        """
        ...

    def delta(self, name: CodebookName, since: int) -> Delta:
        """Return what changed after revision `since` (0: everything).

        NotFound ``unknown_revision``, or ``revision_pruned`` for one that is not kept any more.
        """
        ...

    def diff(
        self,
        name: CodebookName,
        *,
        from_revision: int,
        to_revision: int | None = None,
        after_sequence: int = 0,
        limit: int = 1000,
    ) -> DiffRecord:
        """Return what differs between two revisions (from 0: nothing at all; to None: the current one), by sequence.

        NotFound ``unknown_revision``, or ``revision_pruned`` for one that is not kept any more.
        """
        ...

    def rollback(
        self,
        name: CodebookName,
        to: int,
        *,
        etag: str | None = None,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> RevisionRecord:
        """Make a new revision with exactly the entries and the threshold of `to`.

        NotFound ``unknown_revision``, or ``revision_pruned`` for one that is not kept any more; Aborted
        ``etag_mismatch``. With `validate_only` the answer's number is 0.
        """
        ...


class EpochStore(Protocol):
    """What the revisions of a registry belong to: after a restore from a backup, their numbers are given out again."""

    def epoch(self) -> str:
        """Return the registry's epoch, a random id that stays until `begin_epoch`."""
        ...

    def begin_epoch(self) -> str:
        """Draw another epoch and return it; what replicas have reported is forgotten, and their leases go on."""
        ...


class ReplicaStore(Protocol):
    """Serving replicas and what they have applied."""

    def heartbeat(
        self,
        replica_id: str,
        *,
        model: str,
        fingerprint: str,
        epoch: str,
        report: ReplicaReport,
        lease_s: float,
    ) -> ReplicaRecord:
        """Renew a replica's lease and record what it says of itself.

        FailedPrecondition ``other_epoch`` if `epoch`, whose revisions it speaks of, is not the registry's.
        """
        ...

    def live_replicas(self, fingerprint: str | None = None) -> Sequence[ReplicaRecord]:
        """Return replicas with an unexpired lease (of one base model, when given)."""
        ...


class TenantStore(Protocol):
    """Tenants and their API keys; `request` and `validate_only` are those of `CodebookStore`."""

    def create_tenant(
        self, tenant: TenantId, *, request: RequestKey | None = None, validate_only: bool = False
    ) -> TenantRecord:
        """Make a tenant; AlreadyExists ``tenant_exists``."""
        ...

    def get_tenant(self, tenant: TenantId) -> TenantRecord:
        """Return a tenant; NotFound ``unknown_tenant``."""
        ...

    def list_tenants(self, *, after: str = "", limit: int = 1000) -> Sequence[TenantRecord]:
        """Return tenants with a name greater than `after`, by name; ``default`` is always there."""
        ...

    def add_key(
        self,
        key_id: str,
        digest: str,
        *,
        tenant: TenantId | None,
        scope: KeyScope,
        lifetime_s: float | None,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> KeyRecord:
        """Store the digest of a key of `tenant` (None: an admin key); NotFound ``unknown_tenant``.

        A repeated `request` is AlreadyExists ``key_already_made``, with the name of its key: no secret is told twice.
        """
        ...

    def list_keys(self, tenant: TenantId | None = None, *, after: str = "", limit: int = 1000) -> Sequence[KeyRecord]:
        """Return keys (of `tenant`, when given) with an id greater than `after`, by id; revoked ones, too."""
        ...

    def revoke_key(self, key_id: str, *, request: RequestKey | None = None, validate_only: bool = False) -> KeyRecord:
        """Make a key worthless from now on, however often; NotFound ``unknown_key``."""
        ...

    def rotate_key(
        self,
        key_id: str,
        new_id: str,
        digest: str,
        *,
        overlap_s: float,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> KeyRecord:
        """Store a key like `key_id`, which ends `overlap_s` seconds from now if not earlier, and return the new one.

        It has the same tenant and scope, and lives as long as the old one was made for. NotFound ``unknown_key``;
        FailedPrecondition ``key_ended``, for one that was revoked or has expired; AlreadyExists ``key_already_made``.
        """
        ...

    def resolve_key(self, digest: str) -> KeyRecord:
        """Return the key with this digest; NotFound ``unknown_key``, also when it has expired or was revoked."""
        ...


class AuditLog(Protocol):
    """What was done; every method that changes something adds an event in the same transaction."""

    def list_audit_events(
        self, tenant: TenantId | None = None, *, after: int = 0, limit: int = 1000
    ) -> Sequence[AuditRecord]:
        """Return events (that concern `tenant`, when given) with a number greater than `after`, oldest first."""
        ...


class TransferStore(Protocol):
    """What leaves a codebook with its file, and what comes in with one; NotFound ``unknown_codebook``."""

    def get_revision(self, name: CodebookName, number: int | None = None) -> RevisionRecord:
        """Return a revision (default: the current one); NotFound ``unknown_revision`` or ``revision_pruned``."""
        ...

    def portable_edits(
        self, name: CodebookName, revision: int, *, after_sequence: int = 0, limit: int = 1000
    ) -> Sequence[PortableEdit]:
        """Return edits that were ever published or retired, with a greater sequence, as they are at `revision`.

        One that was retired, be it after that revision, is a tombstone.
        """
        ...

    def known_origins(self, name: CodebookName, origins: Collection[EditId]) -> dict[EditId, KnownOrigin]:
        """Return which edits of a file the codebook has, by origin."""
        ...

    def made_import(self, name: CodebookName, request: RequestKey | None) -> ImportRecord | None:
        """Return what a repeated `request` made; None: it is still to be made. AlreadyExists ``request_id_reused``."""
        ...

    def import_edits(
        self,
        name: CodebookName,
        edits: Iterable[ImportedEdit],
        *,
        threshold: float,
        entries: int,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> ImportRecord:
        """Bring the edits of a file, oldest first, into the codebook as one revision of kind IMPORT.

        What was retired, here or in the file, is or stays retired; what is active here stays; the rest of the file's
        entries comes in. `threshold` and `entries` are those of the revision that the file was made of.
        FailedPrecondition ``import_conflict``, or ``revision_moved`` when an edit changed since it was looked up;
        ResourceExhausted ``quota_exceeded``.
        """
        ...


class CalibrationStore(ArtifactRegister, Protocol):
    """Calibrations of base models; none is ever changed."""

    def add_calibration(
        self,
        *,
        fingerprint: str,
        site: str,
        presets: Mapping[str, MethodParameters],
        recommended: str,
        summary: Mapping[str, Any],
    ) -> CalibrationRecord:
        """Store a calibration as the base model's next version; InvalidArgument ``invalid_calibration``.

        `recommended` must be one of `presets`, and `summary` be JSON types without numbers that are not finite.
        """
        ...

    def calibration(self, fingerprint: str, version: int | None = None) -> CalibrationRecord:
        """Return a calibration of a base model (default: its newest); NotFound ``unknown_calibration``."""
        ...

    def list_calibrations(self, fingerprint: str | None = None) -> Sequence[CalibrationRecord]:
        """Return all calibrations (of one base model, when given), by base model and version."""
        ...


class Registry(
    CodebookStore,
    EditQueue,
    ThresholdStore,
    PreviewStore,
    QuotaStore,
    EpochStore,
    ReplicaStore,
    TenantStore,
    CalibrationStore,
    AuditLog,
    TransferStore,
    Protocol,
):
    """All of it, as one store implements it."""

    def check_schema(self) -> None:
        """Raise FailedPrecondition ``schema_out_of_date`` unless the database is at this version's migration."""
        ...

    def counts(self) -> RegistryCounts:
        """Return how much there is, over all tenants; cheap enough for every few seconds."""
        ...

    def close(self) -> None:
        """Release the connections."""
        ...
