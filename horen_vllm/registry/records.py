"""From rows to records."""

from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.models import (
    CalibrationRecord,
    CodebookRecord,
    EditRecord,
    EditSpec,
    KeyRecord,
    ReplicaRecord,
    RevisionRecord,
    TenantRecord,
)
from horen_vllm.registry.replica_report import report_from_json
from horen_vllm.registry.schema import (
    ApiKeyRow,
    CalibrationRow,
    CodebookRow,
    EditRow,
    ReplicaRow,
    RevisionRow,
    TenantRow,
)


def codebook_name(row: CodebookRow) -> CodebookName:
    """Return the name of a codebook."""
    return CodebookName(TenantId(row.tenant), row.name)


def codebook_record(row: CodebookRow) -> CodebookRecord:
    """Return the record of a codebook."""
    return CodebookRecord(
        name=codebook_name(row),
        model=row.model,
        fingerprint=row.fingerprint,
        site=row.site,
        parameters=MethodParameters.from_dict(row.parameters),
        revision=row.revision,
        entry_count=row.entry_count,
        created_at=row.created_at,
        deleted_at=row.deleted_at,
        oldest_revision=row.oldest_revision,
    )


def edit_spec(row: EditRow) -> EditSpec:
    """Return what the user submitted."""
    return EditSpec(
        prompt=row.prompt,
        target=row.target,
        subject=row.subject,
        aliases=row.aliases,
        paraphrases=row.paraphrases,
        must_not_fire=row.must_not_fire,
    )


def edit_record(row: EditRow, codebook: CodebookName, *, active: bool, answered_by: EditId | None = None) -> EditRecord:
    """Return the record of an edit of `codebook`."""
    return EditRecord(
        edit_id=EditId(row.edit_id),
        codebook=codebook,
        sequence=row.sequence,
        spec=edit_spec(row),
        state=row.state,
        reason_code=row.reason_code,
        reason=row.reason,
        attempt=row.attempt,
        artifact=row.artifact,
        same_as=None if row.same_as is None else EditId(row.same_as),
        alias_of=None if row.alias_of is None else EditId(row.alias_of),
        supersedes=tuple(map(EditId, row.supersedes)),
        overlaps=tuple(map(EditId, row.overlaps)),
        published_revision=row.published_revision,
        active=active,
        created_at=row.created_at,
        updated_at=row.updated_at,
        published_at=row.published_at,
        expires_at=row.expires_at,
        retired_at=row.retired_at,
        answered_by=answered_by,
    )


def revision_record(row: RevisionRow, codebook: CodebookName) -> RevisionRecord:
    """Return the record of a revision of `codebook`."""
    return RevisionRecord(
        codebook=codebook,
        number=row.number,
        kind=row.kind,
        edit_id=None if row.edit_id is None else EditId(row.edit_id),
        restored=row.restored,
        entry_count=row.entry_count,
        threshold=row.threshold,
        created_at=row.created_at,
    )


def calibration_record(row: CalibrationRow) -> CalibrationRecord:
    """Return the record of a calibration."""
    return CalibrationRecord(
        fingerprint=row.fingerprint,
        site=row.site,
        version=row.version,
        presets={preset: MethodParameters.from_dict(parameters) for preset, parameters in row.presets.items()},
        recommended=row.recommended,
        summary=row.summary,
        created_at=row.created_at,
    )


def replica_record(row: ReplicaRow) -> ReplicaRecord:
    """Return the record of a replica."""
    return ReplicaRecord(
        replica_id=row.replica_id,
        model=row.model,
        fingerprint=row.fingerprint,
        report=report_from_json(row.report),
        lease_expires_at=row.lease_expires_at,
    )


def tenant_record(row: TenantRow) -> TenantRecord:
    """Return the record of a tenant."""
    return TenantRecord(name=TenantId(row.name), created_at=row.created_at)


def key_record(row: ApiKeyRow) -> KeyRecord:
    """Return the record of a key."""
    return KeyRecord(
        key_id=row.key_id,
        tenant=None if row.tenant is None else TenantId(row.tenant),
        scope=row.scope,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
