"""What the errors of a database become."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import exc

from horen_vllm.errors import DataLoss, HorenError, Internal, Unavailable

# SQLSTATE, as PostgreSQL's manual lists them (appendix A).
_PASSING_CLASSES: Final = (
    "08",  # connection exception
    "40",  # transaction rollback: deadlock, serialization failure
    "53",  # insufficient resources: too many connections, disk full, out of memory
    "57",  # operator intervention: shutdown, cancelled by a timeout
    "58",  # system error outside PostgreSQL, such as a read or a write that failed
)
_PASSING_STATES: Final = frozenset(
    {
        "55P03",  # lock not available within lock_timeout
        "25P03",  # idle in a transaction for too long
        "25P04",  # a transaction that took too long
        "25006",  # read-only: after a failover, the server that we are still connected to
    }
)
_DAMAGED_STATES: Final = frozenset({"XX001", "XX002"})


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn SQLAlchemy's errors into ours.

    Raises
    ------
    Unavailable
        ``registry_unavailable``, for what may pass: the database does not answer, restarts, is locked, is full or has
        too many connections; the transaction was the victim of a deadlock, could not be serialized, or took too long.
    DataLoss
        ``registry_corrupt``, when the file is not a database, or what it holds is damaged.
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
    if type(error) is exc.DatabaseError or _sqlstate(error) in _DAMAGED_STATES:
        return DataLoss("The registry's database cannot be read; restore a backup.", code="registry_corrupt")
    message = "The registry's database refused a statement; `horen db check` may tell why."
    return Internal(message, code="registry_error")


def _may_pass(error: exc.SQLAlchemyError) -> bool:
    if not isinstance(error, exc.DBAPIError):
        return isinstance(error, exc.TimeoutError)  # no connection of the pool became free
    state = _sqlstate(error)
    if state is not None and not error.connection_invalidated:
        return state.startswith(_PASSING_CLASSES) or state in _PASSING_STATES
    # SQLite calls a missing table operational, too; trying again would not help.
    statement_is_wrong = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    operational = isinstance(error, exc.OperationalError | exc.InterfaceError)
    return error.connection_invalidated or (operational and not statement_is_wrong)


def _sqlstate(error: exc.SQLAlchemyError) -> str | None:
    """Return PostgreSQL's code of the error; None for SQLite, and where no connection was made."""
    found: str | None = getattr(getattr(error, "orig", None), "sqlstate", None)
    return found
