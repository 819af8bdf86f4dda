"""A control plane that asks for API keys, over TLS or in clear text, and keys of every scope."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.control.client import ClientTls, HorenClient
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlAuth, ControlSettings, ServerTls
from horen_vllm.ids import TenantId
from horen_vllm.keys import NewKey, new_key
from horen_vllm.registry.models import KeyScope
from horen_vllm.registry.store import SqlRegistry
from tests.unit.control.secure.authority import Authority, Pair

ACME, BOLT = TenantId("acme"), TenantId("bolt")
KEY_CACHE_S = 0.2


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "theirs")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    """The server's certificate."""
    return authority.issue()


@pytest.fixture
def add_key(registry: SqlRegistry) -> Callable[..., NewKey]:
    """Store a key and return it with its secret."""

    def run(scope: KeyScope, tenant: TenantId | None = None, lifetime_s: float | None = None) -> NewKey:
        made = new_key()
        registry.add_key(made.key_id, made.digest, tenant=tenant, scope=scope, lifetime_s=lifetime_s)
        return made

    return run


@pytest.fixture
def keys(registry: SqlRegistry, add_key: Callable[..., NewKey]) -> dict[KeyScope, NewKey]:
    """A key of each scope; the tenant's are acme's."""
    for tenant in (ACME, BOLT):
        registry.create_tenant(tenant)
    bound = {KeyScope.READ, KeyScope.EDIT}
    return {scope: add_key(scope, ACME if scope in bound else None) for scope in KeyScope}


@pytest.fixture
def keyed_settings(settings: ControlSettings) -> ControlSettings:
    return replace(settings, auth=ControlAuth.KEYS, key_cache_s=KEY_CACHE_S)


@pytest.fixture
def keyed(registry: SqlRegistry, keyed_settings: ControlSettings) -> Iterator[ControlServer]:
    """A control plane that asks for keys, in clear text on loopback."""
    with serve(registry, keyed_settings) as running:
        yield running


@pytest.fixture
def start(registry: SqlRegistry, settings: ControlSettings) -> Iterator[Callable[..., ControlServer]]:
    """Start a control plane with the given TLS files."""
    with ExitStack() as running:
        yield lambda pair, client_ca=None, **changes: running.enter_context(
            serve(
                registry, replace(settings, tls=ServerTls(cert=pair.cert, key=pair.key, client_ca=client_ca), **changes)
            )
        )


@pytest.fixture
def dial() -> Iterator[Callable[..., HorenClient]]:
    """Return a client of a server, closed at the end."""
    with ExitStack() as opened:

        def run(
            server: ControlServer, key: NewKey | None = None, tls: ClientTls | None = None, **more: Any
        ) -> HorenClient:
            secret = key.secret if key else None
            return opened.enter_context(HorenClient(server.address, timeout_s=5.0, api_key=secret, tls=tls, **more))

        yield run
