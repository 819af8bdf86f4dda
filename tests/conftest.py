"""Options and fixtures that every folder of tests shares."""

import json
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from horen_vllm.testing.postgres import PostgresServer
    from horen_vllm.testing.recycled import RecycledDatabase

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

# How long an example takes says how busy the machine is.
settings.register_profile("default", deadline=None)
settings.load_profile("default")

_NUMBERS = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--model", type=Path, default=None, help="model folder for the engine tests (default: demo model)")


@pytest.fixture(scope="session")
def model_folder(request: pytest.FixtureRequest) -> str:
    """Folder of the model that engine tests serve."""
    chosen: Path | None = request.config.getoption("--model")
    if chosen is not None:
        return str(chosen)
    from horen_vllm.demo.paths import demo_model_dir

    return str(demo_model_dir())


@pytest.fixture(scope="session")
def site(model_folder: str) -> str:
    """Edit site of that model."""
    from horen_vllm.core.architectures import default_site

    config = json.loads((Path(model_folder) / "config.json").read_text(encoding="utf-8"))
    return default_site(model_folder, config["architectures"][0], config["num_hidden_layers"])


@pytest.fixture(scope="session")
def postgres() -> "Iterator[PostgresServer]":
    """A PostgreSQL server for all tests of the session."""
    from horen_vllm.testing.postgres import postgres_server

    # Not UTC: what is stored and read back must not depend on it.
    with postgres_server(settings={"timezone": "Asia/Kathmandu"}) as server:
        yield server


@pytest.fixture
def empty_postgres_url(postgres: "PostgresServer") -> str:
    """URL of a PostgreSQL database without tables, of this test alone."""
    return postgres.create_database(f"empty_{next(_NUMBERS)}")


@pytest.fixture(scope="session")
def _recycled_postgres(postgres: "PostgresServer") -> "RecycledDatabase":
    from horen_vllm.registry import migrate
    from horen_vllm.testing.recycled import RecycledDatabase

    migrate.upgrade(postgres.create_database("recycled"))
    return RecycledDatabase(postgres, "recycled")


@pytest.fixture
def postgres_url(_recycled_postgres: "RecycledDatabase") -> str:
    """URL of a migrated PostgreSQL database, as new; the next test that asks for one gets the same."""
    _recycled_postgres.reset()
    return _recycled_postgres.url
