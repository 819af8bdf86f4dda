"""A PostgreSQL database that goes back to its first rows, which is much faster than making a new one."""

from typing import Any

from psycopg import Connection, sql

_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
_RESTART_COUNTERS = "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'"
# Neither foreign keys nor triggers have a say: every table gets rows that fitted together before.
_UNCHECKED = "SET LOCAL session_replication_role = replica"


class RecycledDatabase:
    """A database and what was in its tables when this was made.

    Parameters
    ----------
    connection
        One of a superuser, committing by itself; it is used as long as this object is.
    """

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        tables = [name for (name,) in connection.execute(_TABLES)]
        connection.execute("CREATE SCHEMA remembered")
        for name in tables:
            connection.execute(_about(name, "CREATE TABLE remembered.{table} AS TABLE public.{table}"))
        restore = "DELETE FROM public.{table}; INSERT INTO public.{table} TABLE remembered.{table};"
        self._restore = sql.SQL(" ").join(_about(name, restore) for name in tables)

    def reset(self) -> None:
        """Give all tables their first rows; nobody may be in a transaction."""
        with self._connection.transaction():
            self._connection.execute(_UNCHECKED)
            self._connection.execute(self._restore)
            self._connection.execute(_RESTART_COUNTERS)


def _about(table: str, statement: str) -> sql.Composed:
    return sql.SQL(statement).format(table=sql.Identifier(table))
