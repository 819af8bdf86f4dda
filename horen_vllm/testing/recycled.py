"""A PostgreSQL database that goes back to its first rows, which is much faster than making a new one."""

from psycopg import sql

from horen_vllm.testing.postgres import PostgresServer

_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
_RESTART_COUNTERS = "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'"
# Neither foreign keys nor triggers have a say: every table gets rows that fitted together before.
_UNCHECKED = "SET LOCAL session_replication_role = replica"


class RecycledDatabase:
    """A database and what was in its tables when this was made.

    Parameters
    ----------
    server
        The server that has it.
    name
        Its name; nobody else resets it.
    """

    def __init__(self, server: PostgresServer, name: str) -> None:
        self._server = server
        self._name = name
        with server.connect(name) as connection:
            tables = [table for (table,) in connection.execute(_TABLES)]
            connection.execute("CREATE SCHEMA remembered")
            for table in tables:
                connection.execute(_about(table, "CREATE TABLE remembered.{table} AS TABLE public.{table}"))
        restore = "DELETE FROM public.{table}; INSERT INTO public.{table} TABLE remembered.{table};"
        self._restore = sql.SQL(" ").join(_about(table, restore) for table in tables)

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database."""
        return self._server.url(self._name)

    def reset(self) -> None:
        """Give all tables their first rows; nobody may be in a transaction."""
        with self._server.connect(self._name) as connection, connection.transaction():
            connection.execute(_UNCHECKED)
            connection.execute(self._restore)
            connection.execute(_RESTART_COUNTERS)


def _about(table: str, statement: str) -> sql.Composed:
    return sql.SQL(statement).format(table=sql.Identifier(table))
