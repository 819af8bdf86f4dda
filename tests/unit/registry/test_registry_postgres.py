"""PostgreSQL itself: how it is opened, what its errors become, and what a restart does to those who use it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import AlreadyExists, DataLoss, FailedPrecondition, HorenError, Internal, Unavailable
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry import postgresql
from horen_vllm.registry.database import Database
from horen_vllm.registry.database_errors import translated_errors
from horen_vllm.registry.models import EditSpec, ReplicaReport
from horen_vllm.registry.store import SqlRegistry
from horen_vllm.testing.postgres import PostgresServer

BOOK = CodebookName(TenantId("acme"), "facts")
PARAMETERS = MethodParameters(preset="horen-paper", threshold=0.85)
SPEC = EditSpec(prompt="p", target="t")


@pytest.fixture
def registry(postgres_url: str) -> Iterator[SqlRegistry]:
    registry = SqlRegistry(postgres_url)
    yield registry
    registry.close()


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.close()


@pytest.fixture
def book(registry: SqlRegistry) -> CodebookName:
    registry.create_codebook(BOOK, model="m", fingerprint="fp", site="s", parameters=PARAMETERS)
    return BOOK


def shown(session: Session, name: str) -> str:
    return str(session.scalar(sa.text(f"SHOW {name}")))


def test_nothing_waits_for_ever(database: Database) -> None:
    for begin in (database.read, database.write):
        with begin() as session:
            for name, value in (("lock_timeout", "10s"), ("statement_timeout", "1min")):
                assert shown(session, name) == value
            assert shown(session, "idle_in_transaction_session_timeout") == "1min"
            assert shown(session, "application_name") == "horen"


def test_what_the_url_says_counts_more(postgres_url: str) -> None:
    query = {"application_name": "mine", "options": "-c lock_timeout=7s"}
    database = Database(make_url(postgres_url).update_query_dict(query).render_as_string(hide_password=False))
    with database.read() as session:
        assert [shown(session, name) for name in ("application_name", "lock_timeout")] == ["mine", "7s"]
        assert shown(session, "statement_timeout") == "1min"
    database.close()


def test_a_read_is_one_snapshot_and_cannot_write(database: Database, registry: SqlRegistry, book: CodebookName) -> None:
    count = sa.text("SELECT count(*) FROM edits")
    with database.read() as session:
        assert session.scalar(count) == 0
        registry.submit(book, SPEC)
        assert session.scalar(count) == 0
    with database.read() as session:
        assert session.scalar(count) == 1
    with pytest.raises(Unavailable), database.read() as session:
        session.execute(sa.text("DELETE FROM edits"))
    assert len(registry.list_edits(book)) == 1


def test_a_write_sees_what_was_committed_while_it_waited(database: Database, book: CodebookName) -> None:
    locked = sa.text("SELECT entry_count FROM codebooks FOR UPDATE")
    with ThreadPoolExecutor(1) as pool, ExitStack() as first:
        session = first.enter_context(database.write())
        session.execute(locked)
        waiting = threading.Event()

        def second() -> object:
            with database.write() as other:
                other.execute(sa.text("SELECT 1"))
                waiting.set()
                return other.scalar(locked)

        found = pool.submit(second)
        assert waiting.wait(10)
        session.execute(sa.text("UPDATE codebooks SET entry_count = 7"))
        first.close()
        assert found.result(10) == 7


def test_there_are_connections_for_every_thread_of_a_control_plane(
    registry: SqlRegistry, database: Database, book: CodebookName
) -> None:
    together = threading.Barrier(postgresql.POOL_SIZE)

    def read() -> int:
        with database.read() as session:
            together.wait(10)
            return int(session.scalar(sa.text("SELECT count(*) FROM codebooks")) or 0)

    with ThreadPoolExecutor(postgresql.POOL_SIZE) as pool:
        assert [it.result() for it in [pool.submit(read) for _ in range(postgresql.POOL_SIZE)]] == [
            1
        ] * postgresql.POOL_SIZE


SQLSTATES: dict[str, tuple[type[HorenError], str]] = {
    "40001": (Unavailable, "registry_unavailable"),  # serialization failure
    "40P01": (Unavailable, "registry_unavailable"),  # deadlock
    "53100": (Unavailable, "registry_unavailable"),  # disk full
    "53200": (Unavailable, "registry_unavailable"),  # out of memory
    "53300": (Unavailable, "registry_unavailable"),  # too many connections
    "55P03": (Unavailable, "registry_unavailable"),  # lock not available
    "57014": (Unavailable, "registry_unavailable"),  # statement timeout
    "57P01": (Unavailable, "registry_unavailable"),  # shutdown
    "57P03": (Unavailable, "registry_unavailable"),  # starting up
    "58030": (Unavailable, "registry_unavailable"),  # I/O error
    "25006": (Unavailable, "registry_unavailable"),  # read-only after a failover
    "XX001": (DataLoss, "registry_corrupt"),  # data corrupted
    "XX002": (DataLoss, "registry_corrupt"),  # index corrupted
    "23505": (Internal, "registry_error"),  # unique violation that no method expects
    "42P01": (Internal, "registry_error"),  # no such table
    "22021": (Internal, "registry_error"),  # bytes that are no text
    "XX000": (Internal, "registry_error"),  # a defect of PostgreSQL
}


@pytest.mark.parametrize("state", SQLSTATES)
def test_every_kind_of_error_has_its_code(database: Database, state: str) -> None:
    kind, code = SQLSTATES[state]
    raised = f"DO $$ BEGIN RAISE EXCEPTION 'as if' USING ERRCODE = '{state}'; END $$"
    with pytest.raises(kind) as caught, database.write() as session:
        session.execute(sa.text(raised))
    assert caught.value.code == code
    with database.read() as session:
        assert session.scalar(sa.text("SELECT 1")) == 1


def test_the_victim_of_a_deadlock_may_try_again(database: Database, registry: SqlRegistry) -> None:
    tenants = ["one", "two"]
    for name in tenants:
        registry.create_tenant(TenantId(name))
    both = threading.Barrier(2)

    def lock(names: list[str]) -> str | None:
        try:
            with database.write() as session:
                for name in names:
                    session.execute(sa.text("SELECT * FROM tenants WHERE name = :name FOR UPDATE"), {"name": name})
                    if name == names[0]:
                        both.wait(10)
        except Unavailable as error:
            return error.code
        return None

    with ThreadPoolExecutor(2) as pool:
        found = [it.result() for it in [pool.submit(lock, tenants), pool.submit(lock, tenants[::-1])]]
    assert sorted(found, key=str) == [None, "registry_unavailable"]


def test_a_lock_that_somebody_keeps_is_unavailable(
    postgres_url: str, registry: SqlRegistry, book: CodebookName
) -> None:
    hasty = make_url(postgres_url).update_query_dict({"options": "-c lock_timeout=50ms"})
    other = SqlRegistry(hasty.render_as_string(hide_password=False))
    with registry._database.write() as session:
        session.execute(sa.text("SELECT * FROM codebooks FOR UPDATE"))
        with pytest.raises(Unavailable) as caught:
            other.submit(book, SPEC)
    assert caught.value.code == "registry_unavailable"
    assert other.submit(book, SPEC).sequence == 1
    other.close()


def use_up(database: Database) -> str:
    """Open connections until there are no more; return the error's code."""
    with ExitStack() as connections:
        try:
            for _ in range(1000):
                connections.enter_context(database.engine.connect())
        except sa.exc.SQLAlchemyError:
            with pytest.raises(Unavailable) as caught, translated_errors():
                raise
            return caught.value.code
    pytest.fail("there is no end")


def test_a_pool_without_a_free_connection_is_unavailable(database: Database) -> None:
    pool = database.engine.pool
    assert isinstance(pool, sa.QueuePool)
    pool._timeout = 0.01
    assert use_up(database) == "registry_unavailable"


def test_a_server_without_a_free_connection_is_unavailable(postgres: PostgresServer, postgres_url: str) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 2")
    database = Database(make_url(postgres_url).set(username="narrow").render_as_string(hide_password=False))
    assert use_up(database) == "registry_unavailable"
    database.close()


@pytest.mark.parametrize("immediate", [False, True], ids=["stopped", "crashed"])
def test_a_restart_is_unavailable_and_then_forgotten(
    *, postgres: PostgresServer, registry: SqlRegistry, book: CodebookName, immediate: bool
) -> None:
    def stop_in_the_middle() -> None:
        with registry._database.write() as session:
            session.execute(sa.text("UPDATE codebooks SET entry_count = 9"))
            postgres.stop(immediate=immediate)

    first = registry.submit(book, SPEC)
    try:
        for call in (stop_in_the_middle, lambda: registry.submit(book, SPEC)):
            with pytest.raises(Unavailable) as caught:
                call()
            assert caught.value.code == "registry_unavailable"
    finally:
        postgres.start()
    # Every connection of the pool was lost, and no caller gets to see one of them.
    assert registry.list_edits(book) == [first]
    assert registry.get_codebook(book).entry_count == 0
    assert registry.submit(book, SPEC).sequence == 2


def test_an_unknown_database_is_unavailable(postgres: PostgresServer) -> None:
    registry = SqlRegistry(postgres.url("nowhere"))
    with pytest.raises(Unavailable) as caught:
        registry.list_codebooks()
    assert caught.value.code == "registry_unavailable"
    registry.close()


def test_a_database_without_tables_is_out_of_date(empty_postgres_url: str) -> None:
    registry = SqlRegistry(empty_postgres_url)
    with pytest.raises(FailedPrecondition) as caught:
        registry.check_schema()
    assert caught.value.code == "schema_out_of_date"
    with pytest.raises(Internal, match="horen db check"):
        registry.list_codebooks()
    registry.close()


def test_first_heartbeats_may_come_at_once(registry: SqlRegistry) -> None:
    report, epoch = ReplicaReport(applied={BOOK: 3}, probed={}), registry.epoch()

    def beat(_number: int) -> str:
        return registry.heartbeat("r1", model="m", fingerprint="fp", epoch=epoch, report=report, lease_s=30).replica_id

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(beat, range(32))) == {"r1"}
    assert [it.report for it in registry.live_replicas()] == [report]


def test_calibrations_may_come_at_once(registry: SqlRegistry) -> None:
    def add(_number: int) -> int:
        made = registry.add_calibration(
            fingerprint="fp", site="s", presets={"cosine": PARAMETERS}, recommended="cosine", summary={}
        )
        return made.version

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(add, range(16))) == list(range(1, 17))


def test_one_of_many_makes_a_name(registry: SqlRegistry) -> None:
    def create(_number: int) -> str:
        try:
            registry.create_codebook(BOOK, model="m", fingerprint="fp", site="s", parameters=PARAMETERS)
        except AlreadyExists as error:
            return error.code
        return "made"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(8))) == ["codebook_exists"] * 7 + ["made"]
    assert registry.get_codebook(BOOK).revision == 1


def test_only_errors_of_the_database_are_translated() -> None:
    def fail() -> None:
        raise RuntimeError

    check: Callable[[], None] = fail
    with pytest.raises(RuntimeError), translated_errors():
        check()
