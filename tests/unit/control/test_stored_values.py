"""What PostgreSQL cannot store, or compare with what it stores, is refused before it is asked; SQLite takes more."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from horen_vllm.control import paging
from horen_vllm.control._pb.horen.v1 import admin_pb2, codebooks_pb2, edits_pb2, replicas_pb2
from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.control.status import CODE_KEY
from horen_vllm.registry.store import SqlRegistry

BOOK = "tenants/default/codebooks/facts"
NUL = paging.encode_token("a\x00")
LARGE = paging.encode_token("9" * 18)
LARGE_PAIR = paging.encode_pair(1, int("9" * 18))


@pytest.fixture
def channel(postgres_url: str, settings: ControlSettings) -> Iterator[grpc.Channel]:
    registry = SqlRegistry(postgres_url)
    with serve(registry, settings) as server:
        with HorenClient(server.address) as client:
            client.create_codebook("facts", preset="cosine", threshold=0.85)
        with grpc.insecure_channel(server.address) as channel:
            yield channel
    registry.close()


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("AdminService/ListTenants", admin_pb2.ListTenantsRequest(page_token=NUL), "invalid_page_token"),
        ("AdminService/ListKeys", admin_pb2.ListKeysRequest(page_token=NUL), "invalid_page_token"),
        (
            "CodebookService/ListRevisions",
            codebooks_pb2.ListRevisionsRequest(parent=BOOK, page_token=LARGE),
            "invalid_page_token",
        ),
        (
            "CodebookService/DiffRevisions",
            codebooks_pb2.DiffRevisionsRequest(name=BOOK, page_token=LARGE_PAIR),
            "invalid_page_token",
        ),
        ("EditService/ListEdits", edits_pb2.ListEditsRequest(parent=BOOK, page_token=LARGE), "invalid_page_token"),
        (
            "CodebookService/GetCalibration",
            codebooks_pb2.GetCalibrationRequest(name=f"calibrations/{2**31}"),
            "invalid_name",
        ),
        (
            "ReplicaService/Heartbeat",
            replicas_pb2.HeartbeatRequest(replica_id="r", model="a\x00", fingerprint="f", lease_seconds=1),
            "invalid_text",
        ),
        (
            "ReplicaService/Heartbeat",
            replicas_pb2.HeartbeatRequest(replica_id="r", model="a", fingerprint="f\x00", lease_seconds=1),
            "invalid_text",
        ),
    ],
)
def test_values_that_cannot_be_stored_are_refused(channel: grpc.Channel, method: str, request_: Any, code: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/horen.v1.{method}")(request_.SerializeToString(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(caught.value.trailing_metadata())[CODE_KEY] == code


def test_the_audit_log_has_more_events_than_other_lists_have_items(channel: grpc.Channel) -> None:
    request = admin_pb2.ListAuditEventsRequest(page_token=LARGE)
    answer = channel.unary_unary("/horen.v1.AdminService/ListAuditEvents")(request.SerializeToString(), timeout=30)
    assert list(admin_pb2.ListAuditEventsResponse.FromString(answer).events) == []
