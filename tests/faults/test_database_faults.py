"""The database goes away, or its disk is full: calls say so, nothing is lost, and it goes on where it was."""

import multiprocessing
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import event

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.errors import HorenError, Unavailable
from horen_vllm.ids import EditId
from horen_vllm.registry import migrate
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.store import SqlRegistry
from horen_vllm.testing.postgres import PostgresServer, postgres_server
from tests.faults.checker import Evidence, RegistryState
from tests.faults.conftest import BOOK
from tests.unit.serving.live.world import FINGERPRINT

THREADS = 6


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that nobody else uses."""
    with postgres_server() as server:
        yield server


def served(registry: SqlRegistry) -> ControlServer:
    return serve(registry, ControlSettings(model="m", fingerprint=FINGERPRINT, site="s", port=0, grace_s=0.1))


class Load:
    """Threads that submit edits as fast as they can."""

    def __init__(self, address: str) -> None:
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.wrong: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._submit, args=(address, n)) for n in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self, more: int) -> None:
        """Wait until so many more edits were acknowledged."""
        wanted = len(self.acknowledged) + more
        wait_until(lambda: len(self.acknowledged) >= wanted or self.wrong)

    def _submit(self, address: str, thread: int) -> None:
        with HorenClient(address, timeout_s=10.0) as client:
            number = 0
            while not self._stop.is_set():
                spec = EditSpec(prompt=f"who leads {thread}.{number}?", target="Ada")
                try:
                    self.acknowledged.append(client.submit_edit(BOOK, spec, request_id=f"{thread}.{number}").edit_id)
                    number += 1
                except Unavailable as error:
                    self.refused.append(error.code)
                except BaseException as error:
                    self.wrong.append(error)
                    raise


def wait_until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


@pytest.mark.parametrize("immediate", [False, True], ids=["restart", "crash"])
def test_postgresql_goes_away_under_load(
    own_postgres: PostgresServer, open_book: Callable[[str], SqlRegistry], immediate: bool
) -> None:
    url = own_postgres.create_database("load")
    migrate.upgrade(url)
    registry = open_book(url)
    with served(registry) as server, Load(server.address) as load:
        for _ in range(2):
            load.wait(40)
            own_postgres.stop(immediate=immediate)
            before = len(load.refused)
            wait_until(lambda before=before: len(load.refused) > before)  # type: ignore[misc]
            own_postgres.start()
        load.wait(40)
    assert load.wrong == []
    assert set(load.refused) <= {"registry_unavailable"}
    assert [it.edit_id for it in registry.list_edits(BOOK, limit=100_000)] != []
    stored = {it.edit_id for it in registry.list_edits(BOOK, limit=100_000)}
    assert len(set(load.acknowledged)) == len(load.acknowledged)
    # What was stored and not acknowledged is what the last try of each thread left, if anything.
    assert stored >= set(load.acknowledged)
    assert len(stored) <= len(load.acknowledged) + THREADS


def fill(registry: SqlRegistry) -> tuple[list[EditId], HorenError]:
    """Submit edits until one is refused; return those that were acknowledged, and the refusal."""
    acknowledged = []
    while True:
        try:
            acknowledged.append(registry.submit(BOOK, EditSpec(prompt="who? " * 200, target="Ada")).edit_id)
        except HorenError as error:
            return acknowledged, error


def check_sound(path: Path, registry: SqlRegistry, acknowledged: list[EditId]) -> None:
    assert [it.edit_id for it in registry.list_edits(BOOK, limit=100_000)] == acknowledged
    assert list(RegistryState(Evidence((), registry, BOOK, path.parent)).complaints()) == []
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_database_that_may_not_grow_says_so_and_goes_on_when_it_may(
    sqlite_url: str, tmp_path: Path, open_book: Callable[[str], SqlRegistry]
) -> None:
    registry = open_book(sqlite_url)
    engine = registry._database.engine
    pages = {"limit": 150}

    def limit(connection: sqlite3.Connection, *_: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages['limit']}")

    event.listen(engine, "connect", limit)
    engine.dispose()
    acknowledged, error = fill(registry)
    assert isinstance(error, Unavailable)
    assert error.code == "registry_unavailable"
    assert acknowledged
    check_sound(tmp_path / "registry.db", registry, acknowledged)
    pages["limit"] = 10_000
    engine.dispose()
    acknowledged.append(registry.submit(BOOK, EditSpec(prompt="who?", target="Ada")).edit_id)
    check_sound(tmp_path / "registry.db", registry, acknowledged)


def fill_the_disk(url: str, folder: Path, answer: Connection) -> None:
    """Use a registry and an artifact folder where no file may grow beyond a size, and then again where files may."""
    # Without this the signal would end the process before anybody sees the error.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    registry, artifacts = SqlRegistry(url), ArtifactFolder(folder / "artifacts")
    small = artifacts.put(b"small")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, most))
    acknowledged, error = fill(registry)
    try:
        artifacts.put(b"large" * 200_000)
        refused = "nothing"
    except HorenError as failure:
        refused = failure.code
    left = sorted(path.name for path in (folder / "artifacts").rglob("*") if path.is_file())
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    acknowledged.append(registry.submit(BOOK, EditSpec(prompt="who?", target="Ada")).edit_id)
    large = artifacts.put(b"large" * 200_000)
    answer.send((acknowledged, error.code, refused, left, small, artifacts.read(large)[:5]))


def test_a_full_disk_is_told_and_damages_nothing(
    sqlite_url: str, tmp_path: Path, open_book: Callable[[str], SqlRegistry]
) -> None:
    registry = open_book(sqlite_url)
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=fill_the_disk, args=(sqlite_url, tmp_path, theirs))
    process.start()
    theirs.close()
    acknowledged, code, refused, left, small, large = ours.recv()
    process.join()
    assert (process.exitcode, code, refused) == (0, "registry_unavailable", "artifacts_unavailable")
    assert left == [f"{small}.safetensors"]
    assert large == b"large"
    check_sound(tmp_path / "registry.db", registry, acknowledged)
