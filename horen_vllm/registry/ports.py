"""Ports: what the control plane and the editor worker need of a registry, whatever stores it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.differences import DiffRecord
from horen_vllm.registry.models import (
    AuditRecord,
    CalibrationRecord,
    Claim,
    CodebookRecord,
    Delta,
    EditRecord,
    EditSpec,
    EntryRef,
    KeyRecord,
    KeyScope,
    Publication,
    RegistryCounts,
    ReplicaRecord,
    ReplicaReport,
    RequestKey,
    RevisionRecord,
    TenantRecord,
)


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


class EditQueue(Protocol):
    """Edits and the work on them."""

    def submit(self, name: CodebookName, spec: EditSpec, *, request_id: str | None = None) -> EditRecord:
        """Store an edit durably as COMMITTED.

        The same `request_id` with the same `spec` returns the first record; with another one it raises
        AlreadyExists ``request_id_reused``.
        """
        ...

    def get_edit(self, edit_id: EditId) -> EditRecord:
        """Return an edit; NotFound ``unknown_edit``."""
        ...

    def list_edits(self, name: CodebookName, *, after_sequence: int = 0, limit: int = 1000) -> Sequence[EditRecord]:
        """Return the codebook's edits with a greater sequence, oldest first."""
        ...

    def claim(self, worker: str, *, lease_s: float, fingerprint: str, limit: int = 1) -> tuple[Claim, ...]:
        """Take at most `limit` edits of one codebook with this base-model `fingerprint`; empty when there are none.

        They are the oldest unfinished edits of the codebook, in order and without a gap, and its oldest is COMMITTED or
        its lease has expired; of several such codebooks the one whose oldest has waited longest. The edits become
        TRAINING and their attempts grow by one. An edit that was claimed before is handed out alone, so that one that
        kills its worker takes no other with it; a codebook has one worker at a time. An edit that
        `models.MAX_ATTEMPTS` claims did not finish is not handed out again: the same call closes it as FAILED,
        ``attempts_exhausted``, and goes on to the next one.
        """
        ...

    def extend(self, claims: Sequence[Claim], *, lease_s: float) -> tuple[Claim, ...]:
        """Move the ends of the leases, in one transaction; return the claims that still hold, in their order.

        All claims are of one codebook, else InvalidArgument ``mixed_codebooks``.
        """
        ...

    def trained(self, claims: Sequence[Claim]) -> None:
        """Mark the edits as TRAINED, however often, all or none; FailedPrecondition ``claim_lost``.

        The claims stay: the edits are still to be published, closed as already there, or failed. All claims are of one
        codebook, else InvalidArgument ``mixed_codebooks``.
        """
        ...

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Let the attempts of those claims that still hold not count: what ended them was no edit's fault.

        The edits are COMMITTED again, and are handed out when the lease ends. All claims are of one codebook, else
        InvalidArgument ``mixed_codebooks``.
        """
        ...

    def publish(self, batch: Sequence[tuple[Claim, Publication]]) -> tuple[EditRecord, ...]:
        """Make one revision an edit, in order: with its new entry, without the superseded ones; all or none of them.

        A publication may name edits that stand before it in the batch. Its threshold, when it has one, is that of its
        revision, of the later ones and of the codebook. Returns the edits as they are after the last.
        Raises FailedPrecondition ``claim_lost``, or ``revision_moved`` when the first publication's `base_revision` is
        not the codebook's revision or another one's is not the revision that the publication before it makes;
        InvalidArgument ``mixed_codebooks`` unless all claims are of one codebook, ``invalid_parameter`` for a threshold
        that is no cosine.
        """
        ...

    def finish_same(self, claim: Claim, same_as: EditId) -> EditRecord:
        """Close the edit as already there: PUBLISHED, no entry, ``same_as`` set, no new revision."""
        ...

    def fail(self, claim: Claim, code: str, reason: str, *, base_revision: int | None = None) -> EditRecord:
        """Close the edit as FAILED with its reason.

        Raises FailedPrecondition ``claim_lost``, or ``revision_moved`` when the reason is one of `base_revision` and
        the codebook is not at it any more.
        """
        ...


class ReplicaStore(Protocol):
    """Serving replicas and what they have applied."""

    def heartbeat(
        self,
        replica_id: str,
        *,
        model: str,
        fingerprint: str,
        report: ReplicaReport,
        lease_s: float,
    ) -> ReplicaRecord:
        """Renew a replica's lease and record what it says of itself."""
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


class CalibrationStore(Protocol):
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


class Registry(CodebookStore, EditQueue, ReplicaStore, TenantStore, CalibrationStore, AuditLog, Protocol):
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
