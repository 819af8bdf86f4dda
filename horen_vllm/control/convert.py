"""Views to protobuf messages and back; nothing else.

Empty strings and zeros stand for None on the wire; enum values have the names of their Python counterparts.
"""

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import ParamSpec, TypeVar

from horen_vllm.control import limits
from horen_vllm.control._pb.horen.v1 import codebooks_pb2, edits_pb2, replicas_pb2
from horen_vllm.control.messages import (
    CodebookView,
    DeltaView,
    EditProgress,
    EditView,
    ReplicaProblem,
    RevisionView,
    SyncView,
)
from horen_vllm.control.names import replica_codebooks
from horen_vllm.control.stamps import datetime_of, stamp_of
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.errors import InvalidArgument
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import (
    AttemptRecord,
    EditSpec,
    EntryRef,
    FailedProbe,
    RefusedRevision,
    ReplicaReport,
    RevisionKind,
)

Fields = ParamSpec("Fields")
M = TypeVar("M")


def message_of(kind: Callable[Fields, M], *args: Fields.args, **fields: Fields.kwargs) -> M:
    """Return a message of `kind` with fields that a user filled in.

    Raises
    ------
    InvalidArgument
        ``invalid_text``, for text that is not Unicode; ``number_out_of_range``.
    """
    try:
        return kind(*args, **fields)
    except ValueError as exc:
        # The implementations of protobuf raise different ones, also for numbers out of range.
        field = next((name for name, value in fields.items() if not all(map(limits.encodable, _texts(value)))), None)
        if field is None:
            message = f"a number does not fit its field: {exc}."
            raise InvalidArgument(message, code="number_out_of_range") from exc
        raise limits.invalid_text(field) from exc


def codebook_to_proto(view: CodebookView) -> codebooks_pb2.Codebook:
    """Return the message of a codebook."""
    parameters = view.parameters
    return codebooks_pb2.Codebook(
        name=str(view.name),
        model=view.model,
        fingerprint=view.fingerprint,
        site=view.site,
        preset=parameters.preset,
        threshold=parameters.threshold,
        value_mode=parameters.value_mode.name,
        window_ratio=parameters.window_ratio,
        beta=parameters.beta,
        gamma=parameters.gamma,
        steps=parameters.steps,
        revision=view.revision,
        entry_count=view.entry_count,
        create_time=stamp_of(view.created_at),
        parameters_json=json.dumps(parameters.to_dict()),
        replicas_total=view.replicas_total,
        replicas_serving=view.replicas_serving,
        problems=map(_problem_to_proto, view.problems),
        false_fire_rate=parameters.false_fire_rate or 0.0,
        anchors=parameters.anchors,
        anchored_threshold=parameters.anchored_threshold,
        mask_subject=parameters.mask_subject,
        space=parameters.space or "",
        delete_time=None if view.deleted_at is None else stamp_of(view.deleted_at),
        etag=view.etag,
        oldest_revision=view.oldest_revision,
    )


def codebook_from_proto(message: codebooks_pb2.Codebook) -> CodebookView:
    """Read a codebook; ``parameters_json`` decides, the single fields are for other readers."""
    return CodebookView(
        name=CodebookName.parse(message.name),
        model=message.model,
        fingerprint=message.fingerprint,
        site=message.site,
        parameters=MethodParameters.from_dict(json.loads(message.parameters_json)),
        revision=message.revision,
        entry_count=message.entry_count,
        created_at=datetime_of(message.create_time),
        replicas_total=message.replicas_total,
        replicas_serving=message.replicas_serving,
        problems=tuple(map(_problem_from_proto, message.problems)),
        deleted_at=datetime_of(message.delete_time) if message.HasField("delete_time") else None,
        oldest_revision=message.oldest_revision,
        etag=message.etag,
    )


def value_mode_from_proto(mode: codebooks_pb2.Codebook.ValueMode) -> ValueMode | None:
    """Return the value mode, None for the unspecified one; InvalidArgument ``invalid_parameter`` for none of them."""
    if mode not in codebooks_pb2.Codebook.ValueMode.values():
        raise InvalidArgument(f"there is no value mode {mode}.", code="invalid_parameter")
    return ValueMode[codebooks_pb2.Codebook.ValueMode.Name(mode)] if mode else None


def revision_to_proto(view: RevisionView) -> codebooks_pb2.Revision:
    """Return the message of a revision."""
    return codebooks_pb2.Revision(
        name=f"{view.codebook}/revisions/{view.number}",
        number=view.number,
        kind=view.kind.name,
        edit_id=view.edit_id or "",
        restored_revision=view.restored or 0,
        entry_count=view.entry_count,
        create_time=stamp_of(view.created_at),
        serving=view.serving,
        replicas_total=view.replicas_total,
        replicas_serving=view.replicas_serving,
        threshold=view.threshold,
    )


def revision_from_proto(message: codebooks_pb2.Revision) -> RevisionView:
    """Read a revision."""
    return RevisionView(
        codebook=CodebookName.parse(message.name.removesuffix(f"/revisions/{message.number}")),
        number=message.number,
        kind=RevisionKind[codebooks_pb2.Revision.Kind.Name(message.kind)],
        edit_id=_edit_id(message.edit_id),
        restored=message.restored_revision or None,
        entry_count=message.entry_count,
        threshold=message.threshold,
        created_at=datetime_of(message.create_time),
        serving=message.serving,
        replicas_total=message.replicas_total,
        replicas_serving=message.replicas_serving,
    )


def spec_to_proto(spec: EditSpec) -> edits_pb2.EditSpec:
    """Return the message of what an edit says."""
    return message_of(
        edits_pb2.EditSpec,
        prompt=spec.prompt,
        target=spec.target,
        subject=spec.subject or "",
        aliases=spec.aliases,
        paraphrases=spec.paraphrases,
        must_not_fire=spec.must_not_fire,
    )


def spec_from_proto(message: edits_pb2.EditSpec) -> EditSpec:
    """Read what an edit says."""
    return EditSpec(
        prompt=message.prompt,
        target=message.target,
        subject=message.subject or None,
        aliases=tuple(message.aliases),
        paraphrases=tuple(message.paraphrases),
        must_not_fire=tuple(message.must_not_fire),
    )


def progress_from_proto(state: edits_pb2.Edit.State) -> EditProgress | None:
    """Return the state, or None for the unspecified one; InvalidArgument ``invalid_until`` for one of no name."""
    if state and state not in edits_pb2.Edit.State.values():
        raise InvalidArgument(f"{state} is no state of an edit.", code="invalid_until")
    return EditProgress[edits_pb2.Edit.State.Name(state)] if state else None


def edit_to_proto(view: EditView) -> edits_pb2.Edit:
    """Return the message of an edit."""
    return edits_pb2.Edit(
        name=view.name,
        edit_id=view.edit_id,
        sequence=view.sequence,
        spec=spec_to_proto(view.spec),
        state=view.state.name,
        reason_code=view.reason_code or "",
        reason=view.reason or "",
        same_as=view.same_as or "",
        alias_of=view.alias_of or "",
        supersedes=view.supersedes,
        overlaps=view.overlaps,
        published_revision=view.published_revision or 0,
        active=view.active,
        create_time=stamp_of(view.created_at),
        update_time=stamp_of(view.updated_at),
        publish_time=None if view.published_at is None else stamp_of(view.published_at),
        replicas_serving=view.replicas_serving,
        replicas_total=view.replicas_total,
        expire_time=None if view.expires_at is None else stamp_of(view.expires_at),
        retire_time=None if view.retired_at is None else stamp_of(view.retired_at),
        etag=view.etag,
        attempts=map(_attempt_to_proto, view.attempts),
    )


def edit_from_proto(message: edits_pb2.Edit, codebook: CodebookName | None = None) -> EditView:
    """Read an edit; `codebook` is that of an edit without a name."""
    return EditView(
        codebook=codebook or CodebookName.parse(message.name.removesuffix(f"/edits/{message.edit_id}")),
        edit_id=EditId(message.edit_id),
        sequence=message.sequence,
        spec=spec_from_proto(message.spec),
        state=EditProgress[edits_pb2.Edit.State.Name(message.state)],
        reason_code=message.reason_code or None,
        reason=message.reason or None,
        same_as=_edit_id(message.same_as),
        alias_of=_edit_id(message.alias_of),
        supersedes=tuple(map(EditId, message.supersedes)),
        overlaps=tuple(map(EditId, message.overlaps)),
        published_revision=message.published_revision or None,
        active=message.active,
        created_at=datetime_of(message.create_time),
        updated_at=datetime_of(message.update_time),
        published_at=datetime_of(message.publish_time) if message.HasField("publish_time") else None,
        replicas_serving=message.replicas_serving,
        replicas_total=message.replicas_total,
        expires_at=datetime_of(message.expire_time) if message.HasField("expire_time") else None,
        retired_at=datetime_of(message.retire_time) if message.HasField("retire_time") else None,
        etag=message.etag,
        attempts=tuple(map(_attempt_from_proto, message.attempts)),
    )


def sync_to_proto(view: SyncView) -> replicas_pb2.SyncResponse:
    """Return the message of what a replica does not know yet."""
    return replicas_pb2.SyncResponse(
        deltas=map(_delta_to_proto, view.deltas),
        removed_codebooks=map(str, view.removed_codebooks),
        epoch=view.epoch,
        more=view.more,
    )


def sync_from_proto(message: replicas_pb2.SyncResponse) -> SyncView:
    """Read what a replica does not know yet."""
    return SyncView(
        deltas=tuple(map(_delta_from_proto, message.deltas)),
        removed_codebooks=tuple(map(CodebookName.parse, message.removed_codebooks)),
        epoch=message.epoch,
        more=message.more,
    )


def lease_to_proto(expires_at: datetime) -> replicas_pb2.HeartbeatResponse:
    """Return the message of a renewed lease."""
    return replicas_pb2.HeartbeatResponse(lease_expire_time=stamp_of(expires_at))


def lease_from_proto(message: replicas_pb2.HeartbeatResponse) -> datetime:
    """Read when a renewed lease ends."""
    return datetime_of(message.lease_expire_time)


def report_to_proto(report: ReplicaReport) -> replicas_pb2.HeartbeatRequest:
    """Return a heartbeat that says `report` and nothing else."""
    return message_of(
        replicas_pb2.HeartbeatRequest,
        applied={str(name): number for name, number in report.applied.items()},
        probed={str(name): number for name, number in report.probed.items()},
        failed_probes=[
            replicas_pb2.FailedProbe(
                codebook=str(it.codebook),
                edit_id=it.edit_id,
                base_revision=it.base,
                revision=it.revision,
                reason=it.reason,
            )
            for it in report.failed_probes
        ],
        refused=[
            replicas_pb2.RefusedRevision(
                codebook=str(it.codebook), revision=it.revision, code=it.code, message=it.message
            )
            for it in report.refused
        ],
    )


def report_from_proto(message: replicas_pb2.HeartbeatRequest) -> ReplicaReport:
    """Read what a replica says of itself; InvalidArgument ``invalid_name``."""
    return ReplicaReport(
        applied=replica_codebooks(dict(message.applied)),
        probed=replica_codebooks(dict(message.probed)),
        failed_probes=tuple(
            FailedProbe(
                codebook=CodebookName.parse(it.codebook),
                edit_id=EditId(it.edit_id),
                base=it.base_revision,
                revision=it.revision,
                reason=it.reason,
            )
            for it in message.failed_probes
        ),
        refused=tuple(
            RefusedRevision(
                codebook=CodebookName.parse(it.codebook), revision=it.revision, code=it.code, message=it.message
            )
            for it in message.refused
        ),
    )


def _attempt_to_proto(record: AttemptRecord) -> edits_pb2.Attempt:
    return edits_pb2.Attempt(
        number=record.number,
        worker=record.worker,
        start_time=stamp_of(record.started_at),
        end_time=None if record.ended_at is None else stamp_of(record.ended_at),
        outcome=record.outcome or "",
    )


def _attempt_from_proto(message: edits_pb2.Attempt) -> AttemptRecord:
    return AttemptRecord(
        number=message.number,
        worker=message.worker,
        started_at=datetime_of(message.start_time),
        ended_at=datetime_of(message.end_time) if message.HasField("end_time") else None,
        outcome=message.outcome or None,
    )


def _problem_to_proto(view: ReplicaProblem) -> codebooks_pb2.ReplicaProblem:
    return codebooks_pb2.ReplicaProblem(
        replica_id=view.replica_id,
        revision=view.revision,
        code=view.code,
        message=view.message,
        edit_id=view.edit_id or "",
    )


def _problem_from_proto(message: codebooks_pb2.ReplicaProblem) -> ReplicaProblem:
    return ReplicaProblem(
        replica_id=message.replica_id,
        revision=message.revision,
        code=message.code,
        message=message.message,
        edit_id=_edit_id(message.edit_id),
    )


def _delta_to_proto(view: DeltaView) -> replicas_pb2.CodebookDelta:
    return replicas_pb2.CodebookDelta(
        codebook=codebook_to_proto(view.codebook),
        base_revision=view.base,
        revision=view.revision,
        added=[
            replicas_pb2.EntryRef(edit_id=entry.edit_id, sequence=entry.sequence, artifact=entry.artifact)
            for entry in view.added
        ],
        removed=view.removed,
    )


def _delta_from_proto(message: replicas_pb2.CodebookDelta) -> DeltaView:
    return DeltaView(
        codebook=codebook_from_proto(message.codebook),
        base=message.base_revision,
        revision=message.revision,
        added=tuple(
            EntryRef(edit_id=EditId(entry.edit_id), sequence=entry.sequence, artifact=entry.artifact)
            for entry in message.added
        ),
        removed=tuple(map(EditId, message.removed)),
    )


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        return (value,)
    # Keys of a map, items of a repeated field.
    return (item for item in value if isinstance(item, str)) if isinstance(value, Iterable) else ()


def _edit_id(text: str) -> EditId | None:
    return EditId(text) if text else None
