"""From rows to records."""

from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.models import CodebookRecord, EditRecord, EditSpec, ReplicaRecord, RevisionRecord
from horen_vllm.registry.schema import CodebookRow, EditRow, ReplicaRow, RevisionRow


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


def edit_record(row: EditRow, codebook: CodebookName, *, active: bool) -> EditRecord:
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
        created_at=row.created_at,
    )


def replica_record(row: ReplicaRow) -> ReplicaRecord:
    """Return the record of a replica."""
    applied = {CodebookName(TenantId(tenant), name): number for tenant, name, number in row.applied}
    return ReplicaRecord(
        replica_id=row.replica_id,
        model=row.model,
        fingerprint=row.fingerprint,
        applied=applied,
        lease_expires_at=row.lease_expires_at,
    )
