"""How long a key opens the door: revocation, expiry, running streams, health, reflection, and the client's own care."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from horen_vllm.control.client import ClientTls, HorenClient
from horen_vllm.control.gate import RECHECK_S
from horen_vllm.control.server import ControlServer
from horen_vllm.errors import HorenError, Unauthenticated
from horen_vllm.keys import NewKey
from horen_vllm.registry.models import KeyScope
from horen_vllm.registry.store import SqlRegistry
from tests.unit.control.secure.authority import Authority, Pair
from tests.unit.control.secure.conftest import ACME, KEY_CACHE_S

Dial = Callable[..., HorenClient]


def until_refused(call: Callable[[], object], timeout_s: float = 10.0) -> HorenError:
    """Repeat `call` until it is refused."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            call()
        except HorenError as error:
            return error
        time.sleep(0.01)
    raise AssertionError("it goes on being answered")


def test_a_revoked_key_ends_within_the_caches_time(
    keyed: ControlServer, dial: Dial, keys: dict[KeyScope, NewKey], registry: SqlRegistry
) -> None:
    reader = dial(keyed, keys[KeyScope.READ])
    assert list(reader.list_codebooks()) == []
    registry.revoke_key(keys[KeyScope.READ].key_id)
    begin = time.monotonic()
    error = until_refused(lambda: list(reader.list_codebooks()))
    assert (type(error), error.code) == (Unauthenticated, "invalid_credential")
    # The call that found out is part of the time.
    assert time.monotonic() - begin < KEY_CACHE_S + 5.0


def test_a_running_watch_ends_with_its_key(
    keyed: ControlServer, dial: Dial, keys: dict[KeyScope, NewKey], registry: SqlRegistry
) -> None:
    editor, reader = dial(keyed, keys[KeyScope.EDIT]), dial(keyed, keys[KeyScope.READ])
    editor.create_codebook("facts", preset="cosine", threshold=0.9)
    channel = grpc.insecure_channel(keyed.address)
    watches = {key: watch(channel, key) for key in (keys[KeyScope.READ], keys[KeyScope.EDIT])}
    for messages in watches.values():
        next(messages)
    registry.revoke_key(keys[KeyScope.READ].key_id)
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        next(watches[keys[KeyScope.READ]])
    failure: Any = caught.value
    assert failure.code() is grpc.StatusCode.UNAUTHENTICATED
    assert dict(failure.trailing_metadata())["horen-error-code"] == "invalid_credential"
    assert time.monotonic() - begin < KEY_CACHE_S + RECHECK_S + 5.0
    # The other tenant's stream has nothing to do with it.
    assert watches[keys[KeyScope.EDIT]].is_active()
    assert until_refused(lambda: reader.get_codebook("facts")).code == "invalid_credential"
    channel.close()


def watch(channel: grpc.Channel, key: NewKey) -> Any:
    call = channel.unary_stream("/horen.v1.CodebookService/WatchCodebook")
    request = b"\x0a\x1ctenants/acme/codebooks/facts"
    return call(request, metadata=(("authorization", f"Bearer {key.secret}"),), timeout=30)


def test_a_running_watch_ends_when_its_key_expires(
    keyed: ControlServer, dial: Dial, keys: dict[KeyScope, NewKey], add_key: Callable[..., NewKey]
) -> None:
    dial(keyed, keys[KeyScope.EDIT]).create_codebook("facts", preset="cosine", threshold=0.9)
    channel = grpc.insecure_channel(keyed.address)
    messages = watch(channel, add_key(KeyScope.READ, ACME, lifetime_s=1.0))
    next(messages)
    with pytest.raises(grpc.RpcError) as caught:
        next(messages)
    failure: Any = caught.value
    assert failure.code() is grpc.StatusCode.UNAUTHENTICATED
    channel.close()


@pytest.fixture
def channel(keyed: ControlServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(keyed.address) as opened:
        yield opened


def test_health_is_open_to_everybody(channel: grpc.Channel) -> None:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_needs_a_key_of_any_scope(channel: grpc.Channel, keys: dict[KeyScope, NewKey]) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ServerReflectionInfo(iter([request]), timeout=5))
    failure: Any = caught.value
    assert failure.code() is grpc.StatusCode.UNAUTHENTICATED
    for key in keys.values():
        metadata = (("authorization", f"Bearer {key.secret}"),)
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=5, metadata=metadata)
        assert answer.list_services_response.service


def test_a_key_file_is_read_again_when_it_changes(
    keyed: ControlServer, keys: dict[KeyScope, NewKey], registry: SqlRegistry, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(f"{keys[KeyScope.READ].secret}\n")
    with HorenClient(keyed.address, api_key_file=file, timeout_s=5.0) as client:
        assert list(client.list_codebooks()) == []
        registry.revoke_key(keys[KeyScope.READ].key_id)
        until_refused(lambda: list(client.list_codebooks()))
        file.write_text(f"{keys[KeyScope.EDIT].secret}\n")
        assert list(client.list_codebooks()) == []
        file.unlink()
        assert until_refused(lambda: list(client.list_codebooks())).code == "api_key_unreadable"


@pytest.mark.parametrize("text", ["hk_short", "Bearer hk_x", "hk_k0123456789ab_" + "x" * 42, "schlüssel"])
def test_what_is_no_key_is_not_sent_and_not_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    calls: list[Callable[[], object]] = [
        lambda: HorenClient("127.0.0.1:1", api_key=text),
        lambda: list(HorenClient("127.0.0.1:1", api_key_file=file).list_codebooks()),
    ]
    for call in calls:
        with pytest.raises(HorenError) as caught:
            call()
        assert caught.value.code == "malformed_api_key"
        assert text not in caught.value.message


def test_a_key_travels_in_clear_text_to_this_machine_only(
    keys: dict[KeyScope, NewKey], authority: Authority, tmp_path: Path
) -> None:
    secret = keys[KeyScope.READ].secret
    for target in ("192.0.2.1:8950", "control.example:8950", "dns:///control.example:8950", "[2001:db8::1]:8950"):
        with pytest.raises(HorenError) as caught:
            HorenClient(target, api_key=secret)
        assert caught.value.code == "insecure_channel"
        assert secret not in caught.value.message
        HorenClient(target, api_key=secret, tls=ClientTls(ca=authority.root)).close()
        HorenClient(target).close()
    for target in ("127.0.0.1:8950", "localhost:8950", "[::1]:8950"):
        HorenClient(target, api_key=secret).close()
    with pytest.raises(HorenError) as caught:
        HorenClient("127.0.0.1:1", api_key=secret, api_key_file=tmp_path / "key")
    assert caught.value.code == "api_key_ambiguous"


def test_keys_go_over_tls(
    start: Callable[..., ControlServer],
    dial: Dial,
    keyed_settings: Any,
    keys: dict[KeyScope, NewKey],
    pair: Pair,
    authority: Authority,
) -> None:
    server = start(pair, auth=keyed_settings.auth)
    tls = ClientTls(ca=authority.root)
    assert list(dial(server, keys[KeyScope.READ], tls).list_codebooks()) == []
    assert until_refused(lambda: list(dial(server, tls=tls).list_codebooks())).code == "missing_credential"
