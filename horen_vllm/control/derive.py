"""What is derived from records and live replicas: SERVING, INACTIVE and the replica counts.

An entry that is active now has been part of every revision since it was published, unless a rollback lies between:
only a rollback brings a removed entry back. So a replica surely answers with it once it has applied the later of
the publishing revision and the last rollback (architecture.md, *Acknowledgements*).

A replica serves a revision once it has asked its own engine about what the revision added, too; an edit that did not
give its answer there is not served by that replica, and neither is the revision that brought it.
"""

import hashlib
from collections.abc import Iterator, Sequence

from horen_vllm.control.messages import CodebookView, EditProgress, EditView, ReplicaProblem, RevisionView
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.etags import SEPARATOR, codebook_etag, edit_etag
from horen_vllm.registry.models import (
    CodebookRecord,
    EditRecord,
    EditState,
    FailedProbe,
    ReplicaRecord,
    ReplicaReport,
    RevisionRecord,
)


def codebook_view(record: CodebookRecord, replicas: Sequence[ReplicaRecord]) -> CodebookView:
    """Return what clients see of a codebook; `replicas` are the live ones of its base model."""
    serving, problems = _serving(replicas, record.name, record.revision), tuple(_problems(replicas, record))
    # Behind the registry's etag, what a watch must tell apart and no change is refused for.
    seen = hashlib.sha256(repr((record.entry_count, len(replicas), serving, problems)).encode()).hexdigest()
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
        replicas_serving=serving,
        problems=problems,
        deleted_at=record.deleted_at,
        oldest_revision=record.oldest_revision,
        etag=f"{codebook_etag(record)}{SEPARATOR}{seen[:8]}",
    )


def revision_view(record: RevisionRecord, replicas: Sequence[ReplicaRecord]) -> RevisionView:
    """Return what clients see of a revision; `replicas` are the live ones of its base model."""
    serving = _serving(replicas, record.codebook, record.number)
    return RevisionView(
        codebook=record.codebook,
        number=record.number,
        kind=record.kind,
        edit_id=record.edit_id,
        restored=record.restored,
        entry_count=record.entry_count,
        threshold=record.threshold,
        created_at=record.created_at,
        serving=0 < len(replicas) == serving,
        replicas_total=len(replicas),
        replicas_serving=serving,
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
        The edit whose entry answers for it: `record` itself, or the one that `record.answered_by` names.
    last_rollback
        Number of the codebook's last rollback revision; 0 when there is none.
    replicas
        The live ones of the codebook's base model.
    """
    published = record.state == EditState.PUBLISHED
    active = published and said_by.active
    serving, failed = 0, None
    if active:
        since = max(said_by.published_revision or 0, last_rollback)
        failures = [_failure(replica.report, record.codebook, said_by.edit_id) for replica in replicas]
        serving = sum(
            _reached(replica.report, record.codebook, since) and failure is None
            for replica, failure in zip(replicas, failures, strict=True)
        )
        failed = next((failure for failure in failures if failure), None)
    state = _progress(record.state, active=active, serving=0 < len(replicas) == serving)
    return EditView(
        codebook=record.codebook,
        edit_id=record.edit_id,
        sequence=record.sequence,
        spec=record.spec,
        state=state,
        reason_code="probe_failed" if failed else record.reason_code,
        reason=f"a server has the edit but does not give its answer: {failed.reason}" if failed else record.reason,
        # An entry of its own may have come to it from the edit that it was the same as.
        same_as=None if record.active else record.answered_by or record.same_as,
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
        expires_at=record.expires_at,
        retired_at=record.retired_at,
        # Behind the registry's etag, what a watch must tell apart and no change is refused for.
        etag=f"{edit_etag(record)}{SEPARATOR}{state.value}{'-probe-failed' if failed else ''}",
    )


def _progress(state: EditState, *, active: bool, serving: bool) -> EditProgress:
    if state != EditState.PUBLISHED:
        return EditProgress(state.value)
    if not active:
        return EditProgress.INACTIVE
    return EditProgress.SERVING if serving else EditProgress.PUBLISHED


def _serving(replicas: Sequence[ReplicaRecord], name: CodebookName, revision: int) -> int:
    return sum(
        _reached(replica.report, name, revision)
        and not any(it.codebook == name and it.base < revision <= it.revision for it in replica.report.failed_probes)
        for replica in replicas
    )


def _reached(report: ReplicaReport, name: CodebookName, revision: int) -> bool:
    return min(report.applied.get(name, 0), report.probed.get(name, 0)) >= revision


def _failure(report: ReplicaReport, name: CodebookName, edit: EditId) -> FailedProbe | None:
    return next((it for it in report.failed_probes if (it.codebook, it.edit_id) == (name, edit)), None)


def _problems(replicas: Sequence[ReplicaRecord], codebook: CodebookRecord) -> Iterator[ReplicaProblem]:
    for replica in replicas:
        for refused in replica.report.refused:
            if refused.codebook == codebook.name and refused.revision <= codebook.revision:
                yield ReplicaProblem(
                    replica_id=replica.replica_id,
                    revision=refused.revision,
                    code=refused.code,
                    message=refused.message,
                )
        for failed in replica.report.failed_probes:
            if failed.codebook == codebook.name:
                yield ReplicaProblem(
                    replica_id=replica.replica_id,
                    revision=failed.revision,
                    code="probe_failed",
                    message=failed.reason,
                    edit_id=failed.edit_id,
                )
