"""The connection to the database: how it is opened, and how a transaction begins and ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.orm import Session

from horen_vllm.errors import DataLoss, FailedPrecondition, InvalidArgument
from horen_vllm.failpoints import failpoint
from horen_vllm.registry import postgresql
from horen_vllm.registry.database_errors import translated_errors

_SQLITE_PRAGMAS = (
    "busy_timeout = 10000",  # ms that a writer waits for another process; first, so that the others wait too
    "journal_mode = WAL",
    "synchronous = FULL",  # what was acknowledged survives a power cut
    "foreign_keys = ON",
)

_WRITES = "horen_writes"
_MIGRATES = "horen_migrates"


class Database:
    """Transactions on one database.

    Parameters
    ----------
    url
        SQLAlchemy URL, such as ``sqlite:////var/lib/horen/registry.db``.

    Raises
    ------
    InvalidArgument
        ``invalid_registry_url``, when the URL is malformed or names an unknown database.
    FailedPrecondition
        ``registry_driver_missing``, when the driver that the URL names is not installed.
    """

    def __init__(self, url: str) -> None:
        self.engine = _open(url)
        # All share one pool. For SQLite, the option tells the begin hook which lock to take.
        on_postgresql = self.engine.dialect.name == "postgresql"
        self._reading_engine = self.engine.execution_options(**(postgresql.READING if on_postgresql else {}))
        writing = postgresql.WRITING if on_postgresql else {_WRITES: True}
        self._writing_engine = self.engine.execution_options(**writing)

    @property
    def has_one_writer(self) -> bool:
        """Whether a writing transaction locks the whole database."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session on one snapshot that is closed afterwards."""
        with translated_errors(), Session(self._reading_engine) as session, session.begin():
            yield session

    @contextmanager
    def write(self, commit: str = "") -> Iterator[Session]:
        """Give a session that commits at the end and rolls back on any error; SQLite has one writer at a time.

        Parameters
        ----------
        commit
            Name of the transaction, one of `failpoints.COMMITS`; empty: it has no failpoints.
        """
        with translated_errors(), Session(self._writing_engine) as session, session.begin():
            session.connection()  # wait for the lock here, so that what the caller reads next is up to date
            yield session
            if commit:
                session.flush()
                failpoint(f"registry.{commit}.before_commit")
        if commit:
            failpoint(f"registry.{commit}.after_commit")

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Give a bare writing connection in a transaction, for migrations; close the database behind them.

        SQLite alters a table by copying it, which takes the rows of other tables their parents for a moment: foreign
        keys are checked at the end instead.

        Raises
        ------
        DataLoss
            ``registry_corrupt``, when rows refer to others that are not there; then nothing is changed.
        """
        migrating = self._writing_engine.execution_options(**{_MIGRATES: True})
        with translated_errors(), migrating.begin() as connection:
            if connection.dialect.name == "postgresql":
                postgresql.begin_migration(connection)
            yield connection
            if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                message = "Rows of the registry's database refer to others that are gone; restore a backup."
                raise DataLoss(message, code="registry_corrupt")

    def close(self) -> None:
        """Release the connections."""
        self.engine.dispose()


def _open(url: str) -> Engine:
    try:
        parsed = make_url(url)
        options = postgresql.engine_options(parsed) if parsed.get_backend_name() == "postgresql" else {}
        # Statements carry prompts, targets and digests, which must not get into a log with an error.
        engine = create_engine(parsed, pool_pre_ping=True, hide_parameters=True, **options)
    except exc.ArgumentError as error:
        message = "The registry's URL is not a database URL: expected for example sqlite:///registry.db."
        raise InvalidArgument(message, code="invalid_registry_url") from error
    except ModuleNotFoundError as error:
        message = f"The registry's URL needs the Python package {error.name!r}, which is not installed."
        raise FailedPrecondition(message, code="registry_driver_missing") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: it would take the write lock too late.
    connection.isolation_level = None
    for pragma in _SQLITE_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get(_MIGRATES, False):
        # Within a transaction SQLite ignores this.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    # A writer locks at once: a transaction that read first could not be upgraded after another one's write.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
