"""Random bytes and random messages at every method of every service: refused or answered, never a defect."""

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlAuth, ControlSettings
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, TenantId
from horen_vllm.keys import new_key
from horen_vllm.registry.models import EditSpec, KeyScope
from horen_vllm.registry.store import SqlRegistry
from tests.faults.checker import Evidence, RegistryState
from tests.faults.conftest import BACKGROUND, BOOK, PARAMETERS
from tests.faults.fuzzing import METHODS, Fuzz, known_values
from tests.faults.messages import MARK
from tests.faults.parts import work_once
from tests.unit.serving.live.world import FINGERPRINT


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that this process logs, down to what is off by default."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr)],
        logger_factory=structlog.PrintLoggerFactory(written),
        cache_logger_on_first_use=False,
    )
    yield written
    structlog.reset_defaults()
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def secret(registry: SqlRegistry) -> str:
    """Secret of an admin key."""
    made = new_key()
    registry.add_key(made.key_id, made.digest, tenant=None, scope=KeyScope.ADMIN, lifetime_s=None)
    return made.secret


@pytest.fixture
def server(registry: SqlRegistry, tmp_path: Path) -> Iterator[ControlServer]:
    settings = ControlSettings(
        model="m",
        fingerprint=FINGERPRINT,
        site="s",
        port=0,
        poll_s=0.02,
        grace_s=0.1,
        auth=ControlAuth.KEYS,
        artifacts=str(tmp_path / "artifacts"),
    )
    with serve(registry, settings) as running:
        yield running


@pytest.fixture
def fuzz(
    registry: SqlRegistry, server: ControlServer, secret: str, log: io.StringIO, tmp_path: Path
) -> Callable[[int, int], None]:
    """Makes calls and checks what came of them."""

    def run(cases: int, seed: int) -> None:
        artifacts = ArtifactFolder(tmp_path / "artifacts")
        edit = registry.submit(BOOK, EditSpec(prompt="who leads Rome?", target="Ada"))
        artifacts.put(BACKGROUND)
        assert work_once(registry, artifacts, "worker")
        keys = [new_key() for _ in range(2)]
        for key in keys:
            registry.add_key(key.key_id, key.digest, tenant=DEFAULT_TENANT, scope=KeyScope.READ, lifetime_s=None)
        registry.add_key("known", "0" * 64, tenant=DEFAULT_TENANT, scope=KeyScope.READ, lifetime_s=None)
        registry.add_calibration(
            fingerprint=FINGERPRINT, site="s", presets={"cosine": PARAMETERS}, recommended="cosine", summary={}
        )
        with HorenClient(server.address, api_key=secret) as client:
            client.export_codebook(BOOK, tmp_path / "facts.horen")
        file = (tmp_path / "facts.horen").read_bytes()
        known = known_values(edit.edit_id, [key.key_id for key in keys], file, registry.epoch())
        calls = Fuzz(server.address, secret, seed, known)
        asyncio.run(calls.run(cases))
        assert calls.wrong == []
        assert calls.calls == cases
        # Otherwise these would be tests of the first check of each method only.
        assert [method.name for method in METHODS if not calls.answered[method.name]] == []
        _check_log(log.getvalue(), secret)
        _check_health(server, registry, secret, artifacts=tmp_path / "artifacts")

    return run


def _check_log(text: str, secret: str) -> None:
    lines = text.splitlines()
    assert any(json.loads(line).get("method") == "EditService/SubmitEdit" for line in lines if line.startswith("{"))
    for line in lines:
        assert not any(hidden in line for hidden in (secret, MARK, json.dumps(MARK)[1:-1])), line[:500]
        assert "unexpected_error" not in line, line[:1000]
        assert '"INTERNAL"' not in line, line[:1000]


def _check_health(server: ControlServer, registry: SqlRegistry, secret: str, *, artifacts: Path) -> None:
    """Check that the server does its work for a tenant that was never named, and the registry is in order."""
    assert not server.wait(0.0)
    fresh = TenantId("fresh-tenant")
    with HorenClient(server.address, timeout_s=10.0, api_key=secret) as client:
        client.create_tenant(fresh)
        book = client.create_codebook(CodebookName(fresh, "facts"), preset="cosine", threshold=0.9)
        edit = client.submit_edit(book.name, EditSpec(prompt="who leads Oslo?", target="Bo"))
        assert client.get_edit(edit).edit_id == edit.edit_id
    for record in registry.list_codebooks():
        assert list(RegistryState(Evidence((), registry, record.name, artifacts)).complaints()) == []


def test_nothing_that_is_sent_is_a_defect(fuzz: Callable[[int, int], None]) -> None:
    fuzz(2_500, 1)


@pytest.mark.matrix
def test_nothing_that_is_sent_for_long_is_a_defect(fuzz: Callable[[int, int], None]) -> None:
    fuzz(8_000, 2)
