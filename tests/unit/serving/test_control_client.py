"""A server's own client of the control plane: key and TLS from its ``HOREN_*`` variables."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlAuth, ControlSettings, ServerTls
from horen_vllm.errors import HorenError, PermissionDenied, Unauthenticated, Unavailable
from horen_vllm.keys import NewKey, new_key
from horen_vllm.registry.models import KeyScope, ReplicaReport
from horen_vllm.serving.control import control_client
from horen_vllm.serving.settings import ServingSettings
from horen_vllm.testing.memory.registry import MemoryRegistry
from tests.unit.control.secure.authority import Authority, Pair

FINGERPRINT = "f" * 64


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "API_KEY_FILE", "TLS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_SERVER_NAME"):
        monkeypatch.delenv(f"HOREN_{name}", raising=False)


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def control(registry: MemoryRegistry, authority: Authority) -> Iterator[ControlServer]:
    """A control plane that wants keys and certificates."""
    pair = authority.issue()
    settings = ControlSettings(
        model="demo",
        fingerprint=FINGERPRINT,
        site="x",
        port=0,
        auth=ControlAuth.KEYS,
        tls=ServerTls(cert=pair.cert, key=pair.key, client_ca=authority.root),
    )
    with serve(registry, settings) as running:
        yield running


@pytest.fixture
def own(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """The server's certificate, as its environment names it."""
    pair = authority.issue()
    for name, file in (("CA", authority.root), ("CERT", pair.cert), ("KEY", pair.key)):
        monkeypatch.setenv(f"HOREN_TLS_{name}", str(file))
    return pair


def add_key(registry: MemoryRegistry, scope: KeyScope) -> NewKey:
    made = new_key()
    registry.add_key(made.key_id, made.digest, tenant=None, scope=scope, lifetime_s=None)
    return made


def beat(control: ControlServer) -> None:
    with control_client(control.address, ServingSettings(), timeout_s=5.0) as client:
        nothing = ReplicaReport(applied={}, probed={})
        client.heartbeat("r", model="demo", fingerprint=FINGERPRINT, epoch=client.epoch(), report=nothing)


@pytest.mark.usefixtures("own")
def test_a_replica_shows_its_key_and_its_certificate(
    control: ControlServer, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(Unauthenticated):
        beat(control)
    file = tmp_path / "replica.key"
    file.write_text(add_key(registry, KeyScope.REPLICA).secret)
    monkeypatch.setenv("HOREN_API_KEY_FILE", str(file))
    beat(control)
    assert [replica.replica_id for replica in registry.live_replicas()] == ["r"]


@pytest.mark.usefixtures("own")
def test_a_key_in_the_environment_serves_as_well_and_is_not_shown(
    control: ControlServer, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = add_key(registry, KeyScope.REPLICA).secret
    monkeypatch.setenv("HOREN_API_KEY", secret)
    beat(control)
    assert secret not in repr(ServingSettings())


@pytest.mark.usefixtures("own")
def test_a_tenants_key_is_no_replicas(
    control: ControlServer, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = new_key()
    tenant = registry.list_tenants()[0].name
    registry.add_key(made.key_id, made.digest, tenant=tenant, scope=KeyScope.EDIT, lifetime_s=None)
    monkeypatch.setenv("HOREN_API_KEY", made.secret)
    with pytest.raises(PermissionDenied) as caught:
        beat(control)
    assert caught.value.code == "scope_required"


def test_without_a_certificate_the_door_stays_shut(
    control: ControlServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOREN_TLS_CA", str(authority.root))
    with pytest.raises(Unavailable):
        beat(control)


def test_a_key_does_not_leave_the_machine_in_clear_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOREN_API_KEY", new_key().secret)
    with pytest.raises(HorenError) as caught:
        control_client("control.example:8950", ServingSettings())
    assert caught.value.code == "insecure_channel"
    monkeypatch.setenv("HOREN_TLS", "1")
    control_client("control.example:8950", ServingSettings()).close()


def test_empty_variables_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_SERVER_NAME"):
        monkeypatch.setenv(f"HOREN_{name}", "")
    settings = ServingSettings()
    assert (settings.api_key, settings.tls_ca, settings.tls_cert, settings.tls_key) == (None, None, None, None)
