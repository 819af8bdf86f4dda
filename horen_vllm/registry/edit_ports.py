"""Ports: what a registry does with edits, from submission to retirement, and with questions about them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from horen_vllm.errors import HorenError
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.models import (
    AttemptRecord,
    Claim,
    EditRecord,
    EditSpec,
    EditState,
    Publication,
    QuotaRecord,
    RequestKey,
    RevisionRecord,
    UsageRecord,
)
from horen_vllm.registry.preview_records import PreviewAnswer, PreviewTask
from horen_vllm.registry.submission import Submission


class ArtifactRegister(Protocol):
    """Which files of the artifact store are in use or about to be."""

    def register_artifacts(self, sizes: Mapping[str, int]) -> None:
        """Say which files, by digest, with how many bytes, are about to be written: none of them is collected now.

        To be called before they are written, for only then a file that was just collected is written again.
        """
        ...


class EditQueue(ArtifactRegister, Protocol):
    """Edits and the work on them."""

    def submit(
        self,
        name: CodebookName,
        spec: EditSpec,
        *,
        request: RequestKey | None = None,
        ttl_s: float | None = None,
        validate_only: bool = False,
    ) -> EditRecord:
        """Store an edit durably as COMMITTED, to be retired `ttl_s` seconds later (None: never).

        A repeated `request` returns its edit as it is now; AlreadyExists ``request_id_reused`` for another request
        with the same id. ResourceExhausted ``quota_exceeded``. With `validate_only` everything is checked, nothing is
        stored, and the answer has no id.
        """
        ...

    def submit_many(
        self, submissions: Sequence[Submission], *, validate_only: bool = False
    ) -> tuple[EditRecord | HorenError, ...]:
        """Do `submit` for several edits in one transaction, in order: each has its record, or its own error."""
        ...

    def retire_edit(
        self,
        edit_id: EditId,
        *,
        request: RequestKey | None = None,
        etag: str | None = None,
        validate_only: bool = False,
    ) -> EditRecord:
        """Take an edit back; NotFound ``unknown_edit``, Aborted ``etag_mismatch``.

        An active edit leaves the codebook in a RETIRE revision; an unfinished one is closed as FAILED, ``retired``, and
        its claim is lost; any other is only marked. Another edit that said the same, without an entry of its own, gets
        the entry in the same revision. An edit that was retired is returned as it is. A rollback that brings its entry
        back makes it live again, unless its time has passed: then it leaves once more, in the same transaction.
        """
        ...

    def retire_expired(self, *, limit: int = 1000) -> int:
        """Retire at most `limit` edits whose time has passed; return how many."""
        ...

    def get_edit(self, edit_id: EditId) -> EditRecord:
        """Return an edit; NotFound ``unknown_edit``."""
        ...

    def list_edits(
        self,
        name: CodebookName,
        *,
        after_sequence: int = 0,
        limit: int = 1000,
        states: Collection[EditState] = (),
    ) -> Sequence[EditRecord]:
        """Return the codebook's edits (in one of `states`, when given) with a greater sequence, oldest first."""
        ...

    def attempts(self, edit_id: EditId) -> Sequence[AttemptRecord]:
        """Return the times that workers have taken an edit, oldest first; none for an unknown one."""
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


class ThresholdStore(Protocol):
    """Codebooks whose threshold follows their keys, after keys have gone."""

    def thresholds_due(self, fingerprint: str) -> Sequence[CodebookName]:
        """Return codebooks of a base model that lack their threshold and have no edit in a worker's hands."""
        ...

    def set_threshold(self, name: CodebookName, *, base_revision: int, threshold: float) -> RevisionRecord | None:
        """Make a THRESHOLD revision; None when the threshold is right as it is or somebody was faster.

        NotFound ``unknown_codebook``; FailedPrecondition ``revision_moved`` when the codebook is not at
        `base_revision`; InvalidArgument ``invalid_parameter`` for a threshold that is no cosine.
        """
        ...


class PreviewStore(Protocol):
    """Questions to the workers, which live as long as the calls that ask."""

    def ask_preview(self, name: CodebookName, spec: EditSpec, *, wait_s: float) -> str:
        """Ask what would become of an edit, for `wait_s` seconds; return an id. NotFound ``unknown_codebook``."""
        ...

    def preview_answer(self, preview_id: str) -> PreviewAnswer | None:
        """Return the answer, None while there is none; NotFound ``unknown_preview`` once it is over."""
        ...

    def drop_preview(self, preview_id: str) -> None:
        """Forget a preview, whatever became of it."""
        ...

    def claim_preview(self, worker: str, *, fingerprint: str, lease_s: float) -> PreviewTask | None:
        """Take the oldest open preview of this base model that nobody else has; None when there is none."""
        ...

    def answer_preview(self, worker: str, preview_id: str, answer: PreviewAnswer) -> None:
        """Answer a preview; NotFound ``unknown_preview`` once it is over, FailedPrecondition ``claim_lost``."""
        ...


class QuotaStore(Protocol):
    """What tenants may use; it is checked where something is stored: ResourceExhausted ``quota_exceeded``."""

    def get_quota(self, tenant: TenantId) -> tuple[QuotaRecord, UsageRecord]:
        """Return what a tenant may use and what it uses; NotFound ``unknown_tenant``."""
        ...

    def update_quota(
        self,
        tenant: TenantId,
        limits: Mapping[str, int | None],
        *,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> tuple[QuotaRecord, UsageRecord]:
        """Set those limits that are named, as `QuotaRecord` names them; None lifts one. NotFound ``unknown_tenant``."""
        ...
