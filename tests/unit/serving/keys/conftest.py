"""A control plane with two tenants, their keys, and a server that asks for them."""

from collections.abc import Iterator

import pytest

from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.registry.migrate import upgrade
from horen_vllm.registry.store import SqlRegistry
from tests.unit.serving.keys.keyed import Keys, Server


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    url = f"sqlite:///{tmp_path_factory.mktemp('registry') / 'registry.db'}"
    upgrade(url)
    registry = SqlRegistry(url)
    settings = ControlSettings(model="base", fingerprint="f" * 64, site="s", port=0, grace_s=0.1)
    with serve(registry, settings) as running:
        yield running
    registry.close()


@pytest.fixture(scope="module")
def client(control: ControlServer) -> Iterator[HorenClient]:
    with HorenClient(control.address, timeout_s=5.0) as connected:
        yield connected


@pytest.fixture(scope="module")
def keys(client: HorenClient) -> Keys:
    return Keys(client)


@pytest.fixture
def server(client: HorenClient) -> Iterator[Server]:
    server = Server(client)
    yield server
    server.keyring.close()
