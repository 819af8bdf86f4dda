"""A migrated SQLite file for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from horen_vllm.registry import migrate
from horen_vllm.registry.store import SqlRegistry


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    migrate.upgrade(url)
    return url


@pytest.fixture
def registry(url: str) -> Iterator[SqlRegistry]:
    registry = SqlRegistry(url)
    yield registry
    registry.close()
