"""Databases that survive the processes that use them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from horen_vllm.artifacts.store import digest_of
from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import CodebookName
from horen_vllm.registry import migrate
from horen_vllm.registry.ports import Registry
from horen_vllm.registry.store import SqlRegistry
from tests.faults.parts import Installation
from tests.unit.serving.live.world import FINGERPRINT

BOOK = CodebookName.parse("tenants/default/codebooks/facts")
BACKGROUND = b"queries that thresholds follow"
PARAMETERS = MethodParameters(preset="cosine", threshold=0.5, false_fire_rate=0.01, background=digest_of(BACKGROUND))


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("registry") / "empty.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    return f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'registry.db')}"


@pytest.fixture(params=["sqlite", "postgres"])
def registry_url(request: pytest.FixtureRequest) -> str:
    """URL of a migrated database of this test alone."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def open_registry() -> Iterator[Callable[[str], SqlRegistry]]:
    """Opens registries, and closes them at the end."""
    opened: list[SqlRegistry] = []

    def open_one(url: str) -> SqlRegistry:
        opened.append(SqlRegistry(url))
        return opened[-1]

    yield open_one
    for registry in opened:
        registry.close()


@pytest.fixture
def open_book(open_registry: Callable[[str], SqlRegistry]) -> Callable[[str], SqlRegistry]:
    """Opens a registry, and makes the empty codebook `BOOK` in it."""

    def open_one(url: str) -> SqlRegistry:
        registry = open_registry(url)
        make_book(registry)
        return registry

    return open_one


@pytest.fixture
def registry(registry_url: str, open_book: Callable[[str], SqlRegistry]) -> SqlRegistry:
    return open_book(registry_url)


@pytest.fixture
def place(registry_url: str, tmp_path: Path) -> Installation:
    return place_at(registry_url, tmp_path)


@pytest.fixture
def sqlite_place(sqlite_url: str, tmp_path: Path) -> Installation:
    return place_at(sqlite_url, tmp_path)


def place_at(url: str, folder: Path) -> Installation:
    """Return an installation in an empty folder."""
    (folder / "packs").mkdir()
    return Installation(url=url, folder=folder)


def make_book(registry: Registry) -> None:
    """Make the empty codebook `BOOK`."""
    registry.create_codebook(BOOK, model="m", fingerprint=FINGERPRINT, site="s", parameters=PARAMETERS)
