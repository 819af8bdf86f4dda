"""Starting, stopping, garbage on the wire, health and reflection."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from horen_vllm.control._pb.horen.v1 import codebooks_pb2, codebooks_pb2_grpc
from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import SERVICES, ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.control.status import error_from_rpc
from horen_vllm.errors import FailedPrecondition, Internal, Unavailable
from horen_vllm.ids import CodebookName
from horen_vllm.registry.store import SqlRegistry


@pytest.fixture
def channel(server: ControlServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.mark.parametrize("method", ["EditService/GetEdit", "EditService/WatchEdit", "ReplicaService/Sync"])
def test_garbage_bytes_get_a_status_and_the_server_lives_on(
    channel: grpc.Channel, client: HorenClient, method: str
) -> None:
    for garbage in (b"\xff" * 64, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe"):
        call = channel.unary_unary(f"/horen.v1.{method}")
        with pytest.raises(grpc.RpcError) as caught:
            call(garbage, timeout=5)
        failure: Any = caught.value
        assert failure.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert ("horen-error-code", "malformed_request") in tuple(failure.trailing_metadata())
    assert list(client.list_codebooks()) == []


def test_errors_carry_standard_details(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/horen.v1.CodebookService/GetCodebook")(b"", timeout=5)
    failure: Any = caught.value
    metadata = dict(failure.trailing_metadata())
    status = Status.FromString(metadata["grpc-status-details-bin"])
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, info.reason, info.domain) == (3, "INVALID_NAME", "horen-vllm")


def test_unknown_exceptions_are_internal_with_an_id(
    client: HorenClient, registry: SqlRegistry, demo: CodebookName, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_args: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(registry, "get_codebook", explode)
    with capture_logs() as logs:
        calls: list[Callable[[], object]] = [
            lambda: client.get_codebook(demo),
            lambda: next(client.watch_codebook(demo)),
        ]
        for call in calls:
            with pytest.raises(Internal) as caught:
                call()
            assert caught.value.code == "internal"
            assert "secret" not in caught.value.message
            defect = next(line for line in reversed(logs) if line["event"] == "unexpected_error")
            assert defect["incident"] in caught.value.message
            # What an exception says may be a prompt, so the log has its place only.
            assert "RuntimeError at" in defect["where"][0]
            assert "secret" not in str(logs)


def test_too_large_messages_are_refused(server: ControlServer, client: HorenClient) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/horen.v1.EditService/SubmitEdit")(b"\x00" * (65 * 1024 * 1024), timeout=10)
        failure: Any = caught.value
        assert failure.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert list(client.list_codebooks()) == []


def test_health_answers_for_each_service_and_overall(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", *SERVICES):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=5)
    assert set(SERVICES) <= {service.name for service in answer.list_services_response.service}
    assert set(SERVICES) == {f"horen.v1.{name}Service" for name in ("Edit", "Codebook", "Replica", "Admin")}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_non_loopback_addresses_are_refused(registry: SqlRegistry, settings: ControlSettings, host: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        serve(registry, replace(settings, host=host))
    assert caught.value.code == "insecure_bind"


@pytest.mark.parametrize("by", ["server", "socket"])
def test_a_taken_port_is_named(
    registry: SqlRegistry, settings: ControlSettings, server: ControlServer, by: str
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = server.port if by == "server" else other.getsockname()[1]
        with pytest.raises(FailedPrecondition) as caught:
            serve(registry, replace(settings, port=port))
    assert caught.value.code == "port_taken"
    assert str(port) in caught.value.message


def test_a_database_without_tables_is_refused(settings: ControlSettings) -> None:
    store = SqlRegistry("sqlite://")
    with pytest.raises(FailedPrecondition) as caught:
        serve(store, settings)
    assert caught.value.code == "schema_out_of_date"
    store.close()


def test_stop_ends_watches_and_is_harmless_twice(
    server: ControlServer, client: HorenClient, demo: CodebookName
) -> None:
    channel = grpc.insecure_channel(server.address)
    stub = codebooks_pb2_grpc.CodebookServiceStub(channel)  # type: ignore[no-untyped-call]
    watch = stub.WatchCodebook(codebooks_pb2.WatchCodebookRequest(name=str(demo)))
    next(watch)
    waiting = threading.Timer(0.1, server.stop)
    waiting.start()
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        next(watch)
    assert error_from_rpc(caught.value, server.address).code == "control_stopping"
    channel.close()
    waiting.join()
    server.stop()
    assert server.wait(1)
    assert time.monotonic() - begin < 3


def test_a_stopped_server_is_unavailable_and_a_new_one_is_found(
    server: ControlServer, client: HorenClient, registry: SqlRegistry, settings: ControlSettings
) -> None:
    list(client.list_codebooks())
    server.stop()
    with pytest.raises(Unavailable) as caught:
        list(client.list_codebooks())
    assert caught.value.code == "control_unavailable"
    assert server.address in caught.value.message
    with serve(registry, replace(settings, port=server.port)):
        assert list(client.list_codebooks()) == []


def test_short_absences_are_bridged(
    server: ControlServer, client: HorenClient, registry: SqlRegistry, settings: ControlSettings
) -> None:
    server.stop()
    again = ControlServer(registry, replace(settings, port=server.port))
    threading.Timer(0.3, again.start).start()
    assert list(client.list_codebooks()) == []
    again.stop()
