"""A world with a control plane on port 0."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from horen_vllm.control.server import serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.registry.migrate import upgrade
from horen_vllm.registry.store import SqlRegistry
from tests.unit.serving.live.world import FINGERPRINT, World


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("registry") / "registry.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def registry(tmp_path: Path, migrated: Path) -> Iterator[SqlRegistry]:
    store = SqlRegistry(f"sqlite:///{shutil.copy(migrated, tmp_path / 'registry.db')}")
    yield store
    store.close()


@pytest.fixture
def control_settings() -> ControlSettings:
    return ControlSettings(model="m", fingerprint=FINGERPRINT, site="s", port=0, poll_s=0.01, grace_s=0.2)


@pytest.fixture
def world(registry: SqlRegistry, control_settings: ControlSettings, tmp_path: Path) -> Iterator[World]:
    made = World(registry, control_settings, tmp_path, serve(registry, control_settings))
    yield made
    made.client.close()
    made.server.stop()
