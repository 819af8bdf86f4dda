"""Differences, imports and audit events to protobuf messages and back; nothing else."""

import json

from horen_vllm.control import convert
from horen_vllm.control._pb.horen.v1 import admin_pb2, codebooks_pb2
from horen_vllm.control.messages import CodebookView, ImportView
from horen_vllm.control.names import tenant_path
from horen_vllm.control.stamps import datetime_of, stamp_of
from horen_vllm.ids import EditId, TenantId
from horen_vllm.registry.differences import ChangeKind, ChangeRecord, DiffRecord
from horen_vllm.registry.models import AuditRecord
from horen_vllm.registry.portable import ImportCounts


def diff_to_proto(record: DiffRecord, next_page_token: str) -> codebooks_pb2.DiffRevisionsResponse:
    """Return the message of a page of differences."""
    return codebooks_pb2.DiffRevisionsResponse(
        changes=map(_change_to_proto, record.changes),
        next_page_token=next_page_token,
        from_revision=record.from_revision,
        to_revision=record.to_revision,
        from_threshold=record.from_threshold or 0.0,
        to_threshold=record.to_threshold,
    )


def diff_from_proto(first: codebooks_pb2.DiffRevisionsResponse, changes: tuple[ChangeRecord, ...]) -> DiffRecord:
    """Return a difference from its first page and the changes of all."""
    return DiffRecord(
        from_revision=first.from_revision,
        to_revision=first.to_revision,
        from_threshold=first.from_threshold if first.from_revision else None,
        to_threshold=first.to_threshold,
        changes=changes,
    )


def change_from_proto(message: codebooks_pb2.Change) -> ChangeRecord:
    """Read a change."""
    return ChangeRecord(
        kind=ChangeKind[codebooks_pb2.Change.Kind.Name(message.kind)],
        edit_id=EditId(message.edit_id),
        sequence=message.sequence,
        prompt=message.prompt,
        target=message.target,
    )


def import_to_proto(view: CodebookView, counts: ImportCounts) -> codebooks_pb2.ImportCodebookResponse:
    """Return the message of what an import did."""
    return codebooks_pb2.ImportCodebookResponse(
        codebook=convert.codebook_to_proto(view),
        added=counts.added,
        already_there=counts.already_there,
        kept_retired=counts.kept_retired,
        retired=counts.retired,
    )


def import_from_proto(message: codebooks_pb2.ImportCodebookResponse) -> ImportView:
    """Read what an import did."""
    return ImportView(
        codebook=convert.codebook_from_proto(message.codebook),
        added=message.added,
        already_there=message.already_there,
        kept_retired=message.kept_retired,
        retired=message.retired,
    )


def event_to_proto(record: AuditRecord) -> admin_pb2.AuditEvent:
    """Return the message of something that was done."""
    return admin_pb2.AuditEvent(
        number=record.number,
        create_time=stamp_of(record.created_at),
        actor=record.actor,
        method=record.method,
        tenant="" if record.tenant is None else tenant_path(record.tenant),
        resource=record.resource,
        request_id=record.call_id or "",
        detail_json=json.dumps(record.detail),
    )


def event_from_proto(message: admin_pb2.AuditEvent) -> AuditRecord:
    """Read something that was done."""
    return AuditRecord(
        number=message.number,
        created_at=datetime_of(message.create_time),
        actor=message.actor,
        method=message.method,
        tenant=TenantId(message.tenant.removeprefix("tenants/")) if message.tenant else None,
        resource=message.resource,
        call_id=message.request_id or None,
        detail=json.loads(message.detail_json),
    )


def _change_to_proto(record: ChangeRecord) -> codebooks_pb2.Change:
    return codebooks_pb2.Change(
        kind=record.kind.name,
        edit_id=record.edit_id,
        sequence=record.sequence,
        prompt=record.prompt,
        target=record.target,
    )
