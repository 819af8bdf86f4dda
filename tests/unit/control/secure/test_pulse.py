"""Health follows the database, and so do the gauges."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from horen_vllm.control.client import HorenClient
from horen_vllm.control.metrics import ControlMetrics
from horen_vllm.control.server import SERVICES, ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.errors import Unavailable
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import EditSpec, ReplicaReport
from horen_vllm.registry.store import SqlRegistry

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def metrics() -> ControlMetrics:
    return ControlMetrics()


@pytest.fixture
def server(registry: SqlRegistry, settings: ControlSettings, metrics: ControlMetrics) -> Iterator[ControlServer]:
    with serve(registry, replace(settings, health_s=0.1), metrics) as running:
        yield running


@pytest.fixture
def health(server: ControlServer) -> Iterator[Callable[[str], int]]:
    """Return what the health service says of a service."""
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        yield lambda service: stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status


def eventually(look: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Return True as soon as `look` does, False when it never did."""
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def value(metrics: ControlMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"horen_control_{name}", labels)


def fails(registry: SqlRegistry, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def counts() -> None:
        raise Unavailable("The registry's database does not answer; try again.", code="registry_unavailable")

    monkeypatch.setattr(registry, "counts", counts)
    return lambda: None


def hangs(registry: SqlRegistry, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    gate = threading.Event()
    monkeypatch.setattr(registry, "counts", gate.wait)
    return gate.set


@pytest.mark.parametrize("breaks", [fails, hangs])
def test_health_goes_and_comes_with_the_database(
    health: Callable[[str], int],
    registry: SqlRegistry,
    metrics: ControlMetrics,
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[..., Callable[[], None]],
) -> None:
    services = ("", *SERVICES)
    # A busy machine may have been too slow for the first look.
    assert eventually(lambda: {health(service) for service in services} == {SERVING})
    assert eventually(lambda: value(metrics, "database_up") == 1)
    with capture_logs() as logs:
        mend = breaks(registry, monkeypatch)
        assert eventually(lambda: {health(service) for service in services} == {NOT_SERVING})
        assert eventually(lambda: value(metrics, "database_up") == 0)
        monkeypatch.undo()
        mend()
        assert eventually(lambda: {health(service) for service in services} == {SERVING})
    assert [line["log_level"] for line in logs if "database" in line["event"]] == ["warning", "info"]


def test_a_watch_of_health_hears_of_it(
    server: ControlServer, registry: SqlRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with grpc.insecure_channel(server.address) as channel:
        answers = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(answers).status == SERVING
        fails(registry, monkeypatch)
        assert next(answers).status == NOT_SERVING
        monkeypatch.undo()
        assert next(answers).status == SERVING
        answers.cancel()


def test_the_gauges_tell_what_there_is(
    server: ControlServer, registry: SqlRegistry, settings: ControlSettings, metrics: ControlMetrics
) -> None:
    name = CodebookName.parse("tenants/default/codebooks/facts")
    with HorenClient(server.address, timeout_s=5.0) as client:
        client.create_codebook(name, preset="cosine", threshold=0.9)
        for subject in ("Acme", "Bolt", "Core"):
            client.submit_edit(name, EditSpec(prompt=f"Who leads {subject}?", target="Ada"))
        report = ReplicaReport(applied={}, probed={})
        client.heartbeat("r", model="demo-model", fingerprint=settings.fingerprint, epoch=client.epoch(), report=report)
    (claim,) = registry.claim("worker", lease_s=300.0, fingerprint=settings.fingerprint)
    wanted: dict[str, Any] = {
        "codebooks": 1,
        "replicas_live": 1,
        "edits_claimed": 1,
        "workers": 1,
    }
    assert eventually(lambda: all(value(metrics, name) == number for name, number in wanted.items()))
    states = {state: value(metrics, "edits_unfinished", state=state) for state in ("committed", "training", "trained")}
    assert states == {"committed": 2, "training": 1, "trained": 0}
    oldest = value(metrics, "oldest_edit_seconds")
    assert oldest is not None
    assert oldest > 0
    events = registry.list_audit_events()
    assert eventually(lambda: value(metrics, "audit_events") == events[-1].number)
    assert claim.edit.codebook == name
