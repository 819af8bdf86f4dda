"""How a PostgreSQL database is opened: its connections, its time limits and its isolation."""

from typing import Any, Final

from sqlalchemy import URL, Connection, text
from sqlalchemy.orm import Session

POOL_SIZE: Final = 16
"""Connections that stay open: more than the threads of a control plane that use the registry."""
_BURST: Final = 16
"""Connections beyond those for a moment; then callers wait."""
_WAIT_S: Final = 10.0
"""Seconds that a caller waits for a connection, and a statement for a lock."""
_RECYCLE_S: Final = 1800
"""Age of a connection at which it is replaced: names may lead elsewhere since, and memory has piled up."""

# Nothing hangs for ever, whatever happens to the server or to the network (ms).
_SETTINGS: Final = {
    "lock_timeout": int(_WAIT_S * 1000),
    "statement_timeout": 60_000,
    # A process that was stopped in the middle of a transaction would keep its codebook locked.
    "idle_in_transaction_session_timeout": 60_000,
}
_CONNECTION: Final[dict[str, Any]] = {
    "application_name": "horen",
    "connect_timeout": 10,  # s
    "keepalives_idle": 10,  # s
    "keepalives_interval": 5,  # s
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
}

WRITING: Final[dict[str, Any]] = {"isolation_level": "READ COMMITTED"}
"""Every write locks its codebook's row, or the rows of the queue, before it reads what it decides on.

Each later statement then sees all that was committed before the lock was had. A snapshot from before the wait, as
REPEATABLE READ would have it, would be out of date, and every second writer of a codebook would be turned away.
"""
READING: Final[dict[str, Any]] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
"""One snapshot for all statements of a read, which PostgreSQL never has to refuse."""


def engine_options(url: URL) -> dict[str, Any]:
    """Return the options of the engine; what the URL's query says of a connection counts more than ours."""
    given = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    settings = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
    return {
        "pool_size": POOL_SIZE,
        "max_overflow": _BURST,
        "pool_timeout": _WAIT_S,
        "pool_recycle": _RECYCLE_S,
        "pool_use_lifo": True,
        "connect_args": {**given, "options": f"{settings} {url.query.get('options', '')}".strip()},
    }


def begin_migration(connection: Connection) -> None:
    """Wait until no other migration runs on the database, and let the statements of this one take their time."""
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('horen migrations'))")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")


def lock_table(session: Session, table: str) -> None:
    """Keep other writers out of a table until the commit, where the row that could be locked is still to be made."""
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer at a time
        session.execute(text(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))
