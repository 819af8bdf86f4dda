"""The SQLite database itself: settings, errors at the edge, and what survives a killed process."""

import multiprocessing
import os
import sqlite3
import sys
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import DataLoss, FailedPrecondition, Internal, InvalidArgument, Unavailable
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.database import Database
from horen_vllm.registry.edit_rows import claimable
from horen_vllm.registry.models import EditSpec, ReplicaReport
from horen_vllm.registry.sql_store import utc_now
from horen_vllm.registry.store import SqlRegistry

BOOK = CodebookName(TenantId("acme"), "facts")
PARAMETERS = MethodParameters(preset="horen-paper", threshold=0.85)


def create_book(registry: SqlRegistry) -> None:
    registry.create_codebook(BOOK, model="m", fingerprint="fp", site="s", parameters=PARAMETERS)


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 10000)],
)
def test_sqlite_is_opened_for_durable_sharing(url: str, pragma: str, value: object) -> None:
    database = Database(url)
    with database.read() as session:
        assert session.scalar(sa.text(f"PRAGMA {pragma}")) == value
    database.close()


def test_a_writer_locks_at_once_and_a_reader_does_not(url: str, tmp_path: Path) -> None:
    database = Database(url)
    other = sqlite3.connect(tmp_path / "registry.db", timeout=0, isolation_level=None)
    with database.read() as session:
        session.scalar(sa.text("SELECT count(*) FROM edits"))
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    with database.write(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()
    database.close()


def test_a_reader_sees_one_snapshot(registry: SqlRegistry, url: str) -> None:
    create_book(registry)
    count = sa.text("SELECT count(*) FROM edits")
    database = Database(url)
    with database.read() as session:
        assert session.scalar(count) == 0
        registry.submit(BOOK, EditSpec(prompt="p", target="t"))
        assert session.scalar(count) == 0
    with database.read() as session:
        assert session.scalar(count) == 1
    database.close()


def fail_after(session: Session) -> None:
    session.execute(sa.text("UPDATE codebooks SET revision = 9"))
    raise RuntimeError


def test_a_failed_transaction_leaves_nothing(registry: SqlRegistry, url: str) -> None:
    create_book(registry)
    database = Database(url)
    with pytest.raises(RuntimeError), database.write() as session:
        fail_after(session)
    assert registry.get_codebook(BOOK).revision == 1
    database.close()


def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    registry = SqlRegistry(f"sqlite:///{tmp_path / 'missing' / 'registry.db'}")
    with pytest.raises(Unavailable) as caught:
        registry.get_codebook(BOOK)
    assert caught.value.code == "registry_unavailable"
    assert isinstance(caught.value.__cause__, sa.exc.OperationalError)


def test_a_file_that_is_no_database_is_data_loss(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(DataLoss) as caught:
        SqlRegistry(f"sqlite:///{path}").list_codebooks()
    assert caught.value.code == "registry_corrupt"


def test_a_missing_table_is_not_worth_another_try(tmp_path: Path) -> None:
    registry = SqlRegistry(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(Internal, match="horen db check") as caught:
        registry.list_codebooks()
    assert caught.value.code == "registry_error"
    registry.close()


def test_a_locked_database_is_unavailable(registry: SqlRegistry, tmp_path: Path) -> None:
    with registry._database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as caught:
        create_book(registry)
    assert caught.value.code == "registry_unavailable"
    other.close()
    create_book(registry)


def test_a_broken_rule_is_our_fault(registry: SqlRegistry, url: str) -> None:
    create_book(registry)
    database = Database(url)
    with pytest.raises(Internal) as caught, database.write() as session:
        session.execute(sa.text("INSERT INTO revisions SELECT * FROM revisions"))
    assert caught.value.code == "registry_error"
    database.close()


@pytest.mark.parametrize("url", ["", "registry.db", "nosuchdb://host/name"])
def test_a_url_of_no_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        SqlRegistry(url)
    assert caught.value.code == "invalid_registry_url"


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(FailedPrecondition, match="psycopg") as caught:
        SqlRegistry("postgresql+psycopg://host/name")
    assert caught.value.code == "registry_driver_missing"


def test_long_dead_replicas_are_forgotten(url: str) -> None:
    now = utc_now()
    registry = SqlRegistry(url, clock=lambda: now)
    for replica in ("old", "dead", "new"):
        report = ReplicaReport(applied={}, probed={})
        registry.heartbeat(replica, model="m", fingerprint="f", epoch=registry.epoch(), report=report, lease_s=30)
        now += timedelta(hours=13)
    with registry._database.read() as session:
        stored = session.scalars(sa.text("SELECT replica_id FROM replicas ORDER BY replica_id"))
        assert list(stored) == ["dead", "new"]
    registry.close()


def submit_forever(url: str, acknowledged: Connection) -> None:
    registry = SqlRegistry(url)
    for number in range(10**6):
        edit = registry.submit(BOOK, EditSpec(prompt=f"p{number}", target="t"))
        acknowledged.send(edit.edit_id)


def test_what_was_acknowledged_survives_a_killed_process(registry: SqlRegistry, url: str) -> None:
    create_book(registry)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=submit_forever, args=(url, sender))
    process.start()
    sender.close()
    acknowledged = [receiver.recv() for _ in range(20)]
    assert process.pid is not None
    os.kill(process.pid, 9)
    process.join()
    stored = [edit.edit_id for edit in registry.list_edits(BOOK)]
    assert stored[: len(acknowledged)] == acknowledged


def test_finding_work_reads_the_queue_only(url: str) -> None:
    database = Database(url)
    query = claimable("fp", utc_now()).compile(database.engine, compile_kwargs={"literal_binds": False})
    with database.read() as session:
        plan = session.connection().exec_driver_sql(
            f"EXPLAIN QUERY PLAN {query}", tuple(query.params[name] for name in query.positiontup or ())
        )
        steps = [row[3] for row in plan]
    database.close()
    assert any("ix_edits_queue" in step for step in steps), steps
    assert not any(step.startswith("SCAN edits") for step in steps), steps
