"""What is written down of a call: enough to find it again, and nothing of what was in it."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
import structlog
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from horen_vllm.control.client import HorenClient
from horen_vllm.control.metrics import ControlMetrics
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.errors import PermissionDenied
from horen_vllm.keys import NewKey
from horen_vllm.registry.models import EditSpec, KeyScope
from horen_vllm.registry.store import SqlRegistry
from tests.unit.control.secure.conftest import ACME, BOLT
from tests.unit.control.secure.messages import FILES, METHODS, filled, kind_of

MARK = "Mark3dText"
LIST = "/horen.v1.CodebookService/ListCodebooks"
LIST_ACME = b"\x0a\x0ctenants/acme"


@pytest.fixture
def channel(keyed: ControlServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(keyed.address) as opened:
        yield opened


def bearer(key: NewKey) -> tuple[str, str]:
    return "authorization", f"Bearer {key.secret}"


def calls(logs: list[Any]) -> list[dict[str, Any]]:
    return [dict(line) for line in logs if line["event"] == "call"]


def test_a_call_is_one_line(channel: grpc.Channel, keys: dict[KeyScope, NewKey]) -> None:
    key = keys[KeyScope.READ]
    with capture_logs() as logs:
        channel.unary_unary(LIST)(LIST_ACME, timeout=5, metadata=(bearer(key), ("x-request-id", "mine-1")))
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(LIST)(b"\x0a\x0ctenants/bolt", timeout=5, metadata=(bearer(key),))
    answered, refused = calls(logs)
    peer = answered.pop("peer")
    assert re.fullmatch(r"ipv4:127\.0\.0\.1:\d+", peer)
    assert answered.pop("duration_ms") > 0
    assert answered == {
        "event": "call",
        "log_level": "info",
        "method": "CodebookService/ListCodebooks",
        "status": "OK",
        "code": None,
        "tenant": "acme",
        "actor": f"keys/{key.key_id}",
        "request_id": "mine-1",
    }
    assert (refused["status"], refused["code"], refused["tenant"]) == ("PERMISSION_DENIED", "wrong_tenant", "acme")


def test_a_refused_stranger_is_logged_without_a_name(channel: grpc.Channel) -> None:
    with capture_logs() as logs, pytest.raises(grpc.RpcError):
        channel.unary_unary(LIST)(LIST_ACME, timeout=5)
    (line,) = calls(logs)
    assert (line["status"], line["actor"], line["tenant"]) == ("UNAUTHENTICATED", None, None)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("a-b.c_1:2/3+4=5@6", True), ("x" * 128, True), ("x" * 129, False), ("two words", False), ("", False)],
)
def test_the_answer_repeats_the_id_of_the_call(channel: grpc.Channel, sent: str, kept: bool) -> None:
    call = channel.unary_unary(LIST)
    with pytest.raises(grpc.RpcError) as caught:
        call(LIST_ACME, timeout=5, metadata=(("x-request-id", sent),))
    failure: Any = caught.value
    told = dict(failure.initial_metadata())["x-request-id"]
    assert (told == sent) is kept
    assert re.fullmatch(r"[0-9a-f]{32}", told) or kept
    status = Status.FromString(dict(failure.trailing_metadata())["grpc-status-details-bin"])
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert dict(info.metadata) == {"request_id": told}


def test_changes_are_signed_with_the_key_and_the_call(
    keyed: ControlServer, dial: Callable[..., HorenClient], keys: dict[KeyScope, NewKey], registry: SqlRegistry
) -> None:
    with capture_logs() as logs:
        dial(keyed, keys[KeyScope.EDIT]).create_codebook("facts", preset="cosine", threshold=0.9)
    (line,) = calls(logs)
    event = registry.list_audit_events(ACME)[-1]
    assert (event.method, event.resource) == ("CreateCodebook", "tenants/acme/codebooks/facts")
    assert event.actor == line["actor"] == f"keys/{keys[KeyScope.EDIT].key_id}"
    assert event.call_id == line["request_id"]


@pytest.fixture
def written(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Return all that this process has logged or printed."""
    caplog.set_level(0)

    def read() -> str:
        out = capfd.readouterr()
        return f"{out.out}{out.err}{caplog.text}"

    return read


@pytest.fixture
def json_log() -> Iterator[None]:
    """Log as ``HOREN_LOG_FORMAT=json`` does, with everything that is below ``info``."""
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger("debug"),
    )
    yield
    structlog.configure(**before)


def exercise(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...], names: dict[str, str]) -> int:
    """Call every method with marked text in every field, in places and out of place; return how often."""
    count = 0
    for method, descriptor in METHODS.items():
        call = getattr(channel, kind_of(descriptor))(f"/horen.v1.{method}")
        for placed in ({}, names):
            data = filled(descriptor.input_type, MARK, placed).SerializeToString()
            request = iter([data]) if descriptor.client_streaming else data
            try:
                answer = call(request, timeout=0.5, metadata=metadata)
                for _ in answer if descriptor.server_streaming else ():
                    break
            except grpc.RpcError:
                count += 1
            else:
                count += 1
    return count


@pytest.mark.usefixtures("json_log")
def test_nothing_of_a_request_is_in_the_log(
    keyed: ControlServer,
    dial: Callable[..., HorenClient],
    keys: dict[KeyScope, NewKey],
    channel: grpc.Channel,
    written: Callable[[], str],
) -> None:
    editor = dial(keyed, keys[KeyScope.EDIT])
    editor.create_codebook("facts", preset="cosine", threshold=0.9)
    edit = editor.submit_edit("facts", EditSpec(prompt=f"Who leads {MARK}?", target=f"{MARK} does"))
    names = {"parent": "tenants/acme/codebooks/facts", "name": edit.name}
    for scope in (KeyScope.EDIT, KeyScope.ADMIN):
        assert exercise(channel, (bearer(keys[scope]),), names) == 2 * len(METHODS)
    exercise(channel, (("authorization", f"Bearer hk_{MARK}"),), names)
    log = written()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert {line["method"] for line in lines if line["event"] == "call"} == set(METHODS)
    assert MARK not in log
    for key in keys.values():
        assert key.secret.removeprefix(f"hk_{key.key_id}_") not in log
        assert key.digest not in log


@pytest.mark.usefixtures("json_log")
def test_what_goes_wrong_inside_is_logged_by_its_place_only(
    keyed: ControlServer,
    dial: Callable[..., HorenClient],
    keys: dict[KeyScope, NewKey],
    registry: SqlRegistry,
    monkeypatch: pytest.MonkeyPatch,
    written: Callable[[], str],
) -> None:
    def explode(*_args: object, **_more: object) -> None:
        try:
            json.loads("{}")[MARK]
        except KeyError as exc:
            raise RuntimeError(f"while reading {MARK}") from exc

    monkeypatch.setattr(registry, "get_codebook", explode)
    with pytest.raises(Exception, match="the log of the control plane has it under") as caught:
        dial(keyed, keys[KeyScope.READ]).get_codebook("facts")
    log = written()
    assert MARK not in log + str(caught.value)
    (line,) = [json.loads(it) for it in log.splitlines() if '"unexpected_error"' in it]
    assert line["incident"] in str(caught.value)
    assert [it.split(" at ")[0] for it in line["where"]] == ["RuntimeError", "KeyError"]
    assert "test_journal.py:" in line["where"][0]


def test_a_log_that_cannot_be_written_fails_no_call(
    keyed: ControlServer, dial: Callable[..., HorenClient], keys: dict[KeyScope, NewKey]
) -> None:
    def broken(*_args: object) -> Any:
        raise OSError(28, "No space left on device")

    reader, before = dial(keyed, keys[KeyScope.READ]), structlog.get_config()
    structlog.configure(processors=[broken])
    try:
        assert list(reader.list_codebooks()) == []
        with pytest.raises(PermissionDenied):
            list(reader.list_codebooks(BOLT))
    finally:
        structlog.configure(**before)


@pytest.fixture
def metrics(
    registry: SqlRegistry, settings: ControlSettings, keys: object
) -> Iterator[tuple[ControlMetrics, HorenClient]]:
    with ExitStack() as held:
        numbers = ControlMetrics()
        server = held.enter_context(serve(registry, settings, numbers))
        yield numbers, held.enter_context(HorenClient(server.address, timeout_s=5.0))


def sample(metrics: ControlMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_calls_are_counted_by_method_and_status(metrics: tuple[ControlMetrics, HorenClient]) -> None:
    numbers, client = metrics
    client.create_codebook("tenants/acme/codebooks/facts", preset="cosine", threshold=0.9)
    list(client.list_codebooks(ACME))
    list(client.list_codebooks(BOLT))
    with pytest.raises(Exception, match="nobody"):
        list(client.list_codebooks("nobody"))
    next(client.watch_codebook("tenants/acme/codebooks/facts", timeout_s=5))
    method = "CodebookService/ListCodebooks"
    assert sample(numbers, "horen_control_calls_total", method=method, code="OK") == 2
    assert sample(numbers, "horen_control_calls_total", method=method, code="NOT_FOUND") == 1
    assert sample(numbers, "horen_control_call_seconds_count", method=method) == 3
    watched = "CodebookService/WatchCodebook"
    assert sample(numbers, "horen_control_call_seconds_count", method=watched) is None
    page = generate_latest(numbers.registry).decode()
    assert "acme" not in page
    assert "facts" not in page


def test_every_method_is_known_to_the_tests() -> None:
    assert {file.DESCRIPTOR.package for file in FILES} == {"horen.v1"}
