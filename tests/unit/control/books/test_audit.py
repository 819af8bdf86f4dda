"""Every call that changes something leaves exactly one event; no other call leaves any, and nothing changes them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from horen_vllm.control._pb.horen.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    codebooks_pb2,
    codebooks_pb2_grpc,
    edits_pb2,
    edits_pb2_grpc,
    replicas_pb2,
    replicas_pb2_grpc,
)
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import AuditRecord

from .conftest import Place

FILES = (edits_pb2, codebooks_pb2, admin_pb2, replicas_pb2)
METHODS = {
    method.name: (service.name, method)
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
BOOK = "tenants/default/codebooks/facts"
SPEC = edits_pb2.EditSpec(prompt="Who is new?", target="t")
READS = {
    "PreviewEdit", "GetEdit", "ListEdits", "WatchEdit",
    "GetCodebook", "ListCodebooks", "ListRevisions", "DiffRevisions", "ExportCodebook", "WatchCodebook",
    "WatchRevisions", "GetCalibration", "ListCalibrations",
    "ListTenants", "ListKeys", "GetQuota", "ListAuditEvents",
    # What replicas say of themselves is in their rows, not in the log of what people did.
    "Sync", "Heartbeat", "ResolveKey",
}  # fmt: skip


CHANGES = sorted(set(METHODS) - READS)
"""All others: `requests` has one of each."""


@pytest.fixture
def stubs(here: Place) -> Iterator[dict[str, Any]]:
    with grpc.insecure_channel(here.client._transport.target) as channel:
        yield {
            "EditService": edits_pb2_grpc.EditServiceStub(channel),  # type: ignore[no-untyped-call]
            "CodebookService": codebooks_pb2_grpc.CodebookServiceStub(channel),  # type: ignore[no-untyped-call]
            "AdminService": admin_pb2_grpc.AdminServiceStub(channel),  # type: ignore[no-untyped-call]
            "ReplicaService": replicas_pb2_grpc.ReplicaServiceStub(channel),  # type: ignore[no-untyped-call]
        }


@pytest.fixture
def prepared(here: Place, book: CodebookName, tmp_path: Path) -> dict[str, str]:
    """What the requests below are about: an edit, a key, a file, a deleted codebook."""
    edit = here.publish(book, "Who is old?")
    key = here.client.create_key("default").key
    here.client.export_codebook(book, tmp_path / "facts.zip")
    here.client.create_codebook("gone", preset="cosine", threshold=0.5)
    here.client.delete_codebook("gone")
    return {"edit": f"{BOOK}/edits/{edit.edit_id}", "key": f"keys/{key.key_id}", "file": str(tmp_path / "facts.zip")}


def requests(about: dict[str, str]) -> dict[str, Any]:
    """Return a request of each method that changes something; a list is a stream of them."""
    piece = Path(about["file"]).read_bytes()
    messages: dict[str, Callable[[], Any]] = {
        "SubmitEdit": lambda: edits_pb2.SubmitEditRequest(parent=BOOK, spec=SPEC),
        "SubmitEdits": lambda: [edits_pb2.SubmitEditsRequest(edit=edits_pb2.SubmitEditRequest(parent=BOOK, spec=SPEC))],
        "RetireEdit": lambda: edits_pb2.RetireEditRequest(name=about["edit"]),
        "CreateCodebook": lambda: codebooks_pb2.CreateCodebookRequest(
            parent="tenants/default", codebook_id="new", preset="cosine", threshold=0.5
        ),
        "DeleteCodebook": lambda: codebooks_pb2.DeleteCodebookRequest(name=BOOK),
        "UndeleteCodebook": lambda: codebooks_pb2.UndeleteCodebookRequest(name="tenants/default/codebooks/gone"),
        "ImportCodebook": lambda: [codebooks_pb2.ImportCodebookRequest(name=BOOK, data=piece)],
        "RollbackCodebook": lambda: codebooks_pb2.RollbackCodebookRequest(name=BOOK, to_revision=1),
        "CreateTenant": lambda: admin_pb2.CreateTenantRequest(tenant_id="acme"),
        "CreateKey": lambda: admin_pb2.CreateKeyRequest(tenant="tenants/default"),
        "RotateKey": lambda: admin_pb2.RotateKeyRequest(name=about["key"]),
        "RevokeKey": lambda: admin_pb2.RevokeKeyRequest(name=about["key"]),
        "UpdateQuota": lambda: admin_pb2.UpdateQuotaRequest(
            quota=admin_pb2.Quota(name="tenants/default/quota", max_pending=1_000)
        ),
    }
    return {name: messages[name]() for name in CHANGES}


def call(stubs: dict[str, Any], name: str, request: Any) -> None:
    """Make a call and read its answer to the end."""
    service, method = METHODS[name]
    answer = getattr(stubs[service], name)(iter(request) if method.client_streaming else request, timeout=10)
    if method.server_streaming:
        list(answer)


def body(name: str, request: Any) -> Any:
    """Return the message of a request that has its id."""
    if name == "SubmitEdits":
        return request[0].edit
    return request[0] if isinstance(request, list) else request


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_leaves_one_event_and_its_repetition_none(
    here: Place, stubs: dict[str, Any], prepared: dict[str, str], name: str
) -> None:
    before = here.registry.list_audit_events()
    dry = requests(prepared)[name]
    body(name, dry).validate_only = True
    call(stubs, name, dry)
    assert here.registry.list_audit_events() == before
    for _ in range(2):
        request = requests(prepared)[name]
        body(name, request).request_id = "r1"
        try:
            call(stubs, name, request)
        except grpc.RpcError as exc:
            # The only answer that cannot be given twice.
            assert (name in {"CreateKey", "RotateKey"}, exc.code()) == (True, grpc.StatusCode.ALREADY_EXISTS)  # noqa: PT017
        (event,) = list(here.registry.list_audit_events())[len(before) :]
        check_event(event, name)


def check_event(event: AuditRecord, name: str) -> None:
    assert event.method == {"SubmitEdits": "SubmitEdit"}.get(name, name)
    assert (event.actor, bool(event.call_id), bool(event.resource)) == ("local", True, True)
    # No text of an edit, no secret.
    shown = repr(event)
    assert not any(text in shown for text in (SPEC.prompt, "Who is old?", "hk_"))


def test_reading_leaves_no_event(here: Place, stubs: dict[str, Any], prepared: dict[str, str]) -> None:
    reads: list[tuple[str, Any]] = [
        ("GetEdit", edits_pb2.GetEditRequest(name=prepared["edit"])),
        ("ListEdits", edits_pb2.ListEditsRequest(parent=BOOK)),
        ("GetCodebook", codebooks_pb2.GetCodebookRequest(name=BOOK)),
        ("ListCodebooks", codebooks_pb2.ListCodebooksRequest(parent="tenants/default")),
        ("ListRevisions", codebooks_pb2.ListRevisionsRequest(parent=BOOK)),
        ("DiffRevisions", codebooks_pb2.DiffRevisionsRequest(name=BOOK)),
        ("ExportCodebook", codebooks_pb2.ExportCodebookRequest(name=BOOK)),
        ("ListCalibrations", codebooks_pb2.ListCalibrationsRequest()),
        ("ListTenants", admin_pb2.ListTenantsRequest()),
        ("ListKeys", admin_pb2.ListKeysRequest()),
        ("ListAuditEvents", admin_pb2.ListAuditEventsRequest()),
        ("Sync", replicas_pb2.SyncRequest(replica_id="r", fingerprint="f" * 64)),
        (
            "Heartbeat",
            replicas_pb2.HeartbeatRequest(
                replica_id="r", model="m", fingerprint="f" * 64, epoch=here.registry.epoch(), lease_seconds=5
            ),
        ),
    ]
    before = here.registry.list_audit_events()
    for name, request in reads:
        assert name in READS
        call(stubs, name, request)
    assert here.registry.list_audit_events() == before


def test_a_refused_change_leaves_no_event(here: Place, stubs: dict[str, Any], prepared: dict[str, str]) -> None:
    before = here.registry.list_audit_events()
    refused = [
        ("RollbackCodebook", codebooks_pb2.RollbackCodebookRequest(name=BOOK, to_revision=99)),
        ("DeleteCodebook", codebooks_pb2.DeleteCodebookRequest(name=BOOK, etag="stale")),
        ("CreateTenant", admin_pb2.CreateTenantRequest(tenant_id="default")),
        ("ImportCodebook", [codebooks_pb2.ImportCodebookRequest(name=BOOK, data=b"no file")]),
    ]
    for name, request in refused:
        with pytest.raises(grpc.RpcError):
            call(stubs, name, request)
    assert here.registry.list_audit_events() == before
    assert prepared["edit"]


def test_events_come_in_pages_and_by_tenant(here: Place, prepared: dict[str, str]) -> None:
    here.client.create_tenant("acme")
    here.client.create_key("acme")
    everything = list(here.client.list_audit_events(page_size=2))
    assert everything == list(here.registry.list_audit_events())
    assert [event.number for event in everything] == sorted({event.number for event in everything})
    theirs = list(here.client.list_audit_events("acme", page_size=1))
    assert [(event.method, event.tenant) for event in theirs] == [("CreateTenant", "acme"), ("CreateKey", "acme")]
    here.client.rollback("facts", 1)
    (last,) = list(here.client.list_audit_events())[len(everything) :]
    assert (last.resource, last.detail) == (BOOK, {"to_revision": 1, "revision": 3})
    assert prepared["key"]
