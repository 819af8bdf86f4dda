"""What is derived from records and live replicas: SERVING, INACTIVE and the replica counts.

An entry that is active now has been part of every revision since it was published, unless a rollback lies between:
only a rollback brings a removed entry back. So a replica surely answers with it once it has applied the later of
the publishing revision and the last rollback (architecture.md, *Acknowledgements*).
"""

from collections.abc import Sequence

from horen_vllm.control.messages import CodebookView, EditProgress, EditView, RevisionView
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import CodebookRecord, EditRecord, EditState, ReplicaRecord, RevisionRecord


def codebook_view(record: CodebookRecord, replicas: Sequence[ReplicaRecord]) -> CodebookView:
    """Return what clients see of a codebook; `replicas` are the live ones of its base model."""
    return CodebookView(
        name=record.name,
        model=record.model,
        fingerprint=record.fingerprint,
        site=record.site,
        parameters=record.parameters,
        revision=record.revision,
        entry_count=record.entry_count,
        created_at=record.created_at,
        replicas_total=len(replicas),
        replicas_serving=_applied(replicas, record.name, record.revision),
    )


def revision_view(record: RevisionRecord, replicas: Sequence[ReplicaRecord]) -> RevisionView:
    """Return what clients see of a revision; `replicas` are the live ones of its base model."""
    applied = _applied(replicas, record.codebook, record.number)
    return RevisionView(
        codebook=record.codebook,
        number=record.number,
        kind=record.kind,
        edit_id=record.edit_id,
        restored=record.restored,
        entry_count=record.entry_count,
        created_at=record.created_at,
        serving=0 < len(replicas) == applied,
        replicas_total=len(replicas),
        replicas_serving=applied,
    )


def edit_view(
    record: EditRecord, said_by: EditRecord, last_rollback: int, replicas: Sequence[ReplicaRecord]
) -> EditView:
    """Return what clients see of an edit.

    Parameters
    ----------
    record
        The edit.
    said_by
        The edit whose entry answers for it: `record` itself, or the one that `record.same_as` names.
    last_rollback
        Number of the codebook's last rollback revision; 0 when there is none.
    replicas
        The live ones of the codebook's base model.
    """
    published = record.state == EditState.PUBLISHED
    active = published and said_by.active
    serving = 0
    if active:
        since = max(said_by.published_revision or 0, last_rollback)
        serving = _applied(replicas, record.codebook, since)
    return EditView(
        codebook=record.codebook,
        edit_id=record.edit_id,
        sequence=record.sequence,
        spec=record.spec,
        state=_progress(record.state, active=active, serving=0 < len(replicas) == serving),
        reason_code=record.reason_code,
        reason=record.reason,
        same_as=record.same_as,
        alias_of=record.alias_of,
        supersedes=record.supersedes,
        overlaps=record.overlaps,
        published_revision=said_by.published_revision if published else None,
        active=active,
        created_at=record.created_at,
        updated_at=record.updated_at,
        published_at=record.published_at,
        replicas_serving=serving,
        replicas_total=len(replicas),
    )


def _progress(state: EditState, *, active: bool, serving: bool) -> EditProgress:
    if state != EditState.PUBLISHED:
        return EditProgress(state.value)
    if not active:
        return EditProgress.INACTIVE
    return EditProgress.SERVING if serving else EditProgress.PUBLISHED


def _applied(replicas: Sequence[ReplicaRecord], name: CodebookName, revision: int) -> int:
    return sum(replica.applied.get(name, 0) >= revision for replica in replicas)
