"""What a database's schema is, in its own words."""

import re

import sqlalchemy as sa

from horen_vllm.registry.database import Database

_POSTGRESQL = """
    SELECT c.relname, format('column %s %s %s %s %s', a.attname, format_type(a.atttypid, a.atttypmod), l.collname,
        a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_collation l ON l.oid = a.attcollation
        LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT conrelid::regclass::text, format('constraint %s %s', conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT sequencename, data_type::text FROM pg_sequences WHERE schemaname = 'public'
    UNION ALL
    SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""


def definitions(url: str) -> dict[str, str]:
    """Return what defines each table, index, trigger, sequence and function, by name."""
    database = Database(url)
    with database.connect() as connection:
        found = _of_sqlite(connection) if connection.dialect.name == "sqlite" else _of_postgresql(connection)
    database.close()
    return {name: sql for name, sql in found.items() if name != "alembic_version"}


def _of_sqlite(connection: sa.Connection) -> dict[str, str]:
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    return {row.name: _canonical(row.sql) for row in connection.execute(sa.text(query))}


def _canonical(sql: str) -> str:
    """Return the statement as a table has it that no migration has copied: names bare, constraints by name."""
    lines = [line.rstrip(", ") for line in sql.replace('"', "").split("\n")]
    return "\n".join(sorted(lines, key=lambda line: line if line.startswith("\tCONSTRAINT") else ""))


def _of_postgresql(connection: sa.Connection) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name, definition in connection.execute(sa.text(_POSTGRESQL)):
        # PostgreSQL writes a condition anew when a column of it changes, with other casts and brackets.
        found.setdefault(name, []).append(re.sub(r"::[a-z ]+(\[\])?|[()]", "", definition))
    return {name: "\n".join(sorted(lines)) for name, lines in found.items()}
