"""The connection to the database: how it is opened, how a transaction begins, and what its errors become."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.orm import Session

from horen_vllm.errors import DataLoss, FailedPrecondition, HorenError, Internal, InvalidArgument, Unavailable

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
        # Both share one pool; the option tells the begin hook which lock to take.
        self._writing_engine = self.engine.execution_options(**{_WRITES: True})

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session on one snapshot (SQLite) that is closed afterwards."""
        with translated_errors(), Session(self.engine) as session, session.begin():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Give a session that commits at the end and rolls back on any error; SQLite has one writer at a time."""
        with translated_errors(), Session(self._writing_engine) as session, session.begin():
            session.connection()  # wait for the lock here, so that what the caller reads next is up to date
            yield session

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
            yield connection
            if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                message = "Rows of the registry's database refer to others that are gone; restore a backup."
                raise DataLoss(message, code="registry_corrupt")

    def close(self) -> None:
        """Release the connections."""
        self.engine.dispose()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn SQLAlchemy's errors into ours.

    Raises
    ------
    Unavailable
        ``registry_unavailable``, when the database does not answer, is locked or is full.
    DataLoss
        ``registry_corrupt``, when the file is not a database or is damaged.
    Internal
        ``registry_error``, for all others, such as a missing table.
    """
    try:
        yield
    except exc.SQLAlchemyError as error:
        raise _translate(error) from error


def _translate(error: exc.SQLAlchemyError) -> HorenError:
    if _may_pass(error):
        return Unavailable("The registry's database does not answer; try again.", code="registry_unavailable")
    # SQLite has no class of its own for a damaged file; all other errors are subclasses.
    if type(error) is exc.DatabaseError:
        return DataLoss("The registry's database cannot be read; restore a backup.", code="registry_corrupt")
    message = "The registry's database refused a statement; `horen db check` may tell why."
    return Internal(message, code="registry_error")


def _may_pass(error: exc.SQLAlchemyError) -> bool:
    if isinstance(error, exc.DBAPIError):
        # SQLite calls a missing table operational, too; trying again would not help.
        statement_is_wrong = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
        operational = isinstance(error, exc.OperationalError | exc.InterfaceError)
        return error.connection_invalidated or (operational and not statement_is_wrong)
    return isinstance(error, exc.TimeoutError)


def _open(url: str) -> Engine:
    try:
        engine = create_engine(make_url(url), pool_pre_ping=True)
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
