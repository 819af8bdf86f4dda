"""A proxy that the environment names: what stays on this machine does not pass through it."""

import socket
from collections.abc import Iterator

import pytest

from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer
from horen_vllm.keys import NewKey
from horen_vllm.registry.models import KeyScope


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listener that never answers, named as the machine's proxy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.0)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for name in ("grpc_proxy", "https_proxy", "http_proxy"):
            monkeypatch.setenv(name, address)
        for name in ("no_grpc_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield listener


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_key_for_this_machine_never_leaves_it(
    keyed: ControlServer, keys: dict[KeyScope, NewKey], proxy: socket.socket, host: str
) -> None:
    target = f"{host}:{keyed.port}"
    with HorenClient(target, timeout_s=5.0, api_key=keys[KeyScope.READ].secret) as client:
        assert list(client.list_codebooks()) == []
    with pytest.raises(BlockingIOError):
        proxy.accept()
