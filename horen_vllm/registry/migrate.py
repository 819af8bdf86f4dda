"""Migrations, run in this process: no ``alembic.ini``, no change to the logging set-up."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

import horen_vllm
from horen_vllm.errors import FailedPrecondition
from horen_vllm.registry.database import Database


def upgrade(url: str) -> None:
    """Bring the database to this version's schema, creating it if it is empty; all or nothing.

    Raises
    ------
    FailedPrecondition
        ``migrations_missing``, when the installation lacks the migration files; ``schema_out_of_date``, when
        the database was written by a newer version.
    Unavailable
        ``registry_unavailable``.
    """
    with _connection(url) as connection:
        _refuse_newer(_current(connection))
        command.upgrade(_config(connection), "head")


def downgrade(url: str, revision: str) -> None:
    """Take the database back to the migration `revision` (``base``: no tables at all, and no data).

    Raises
    ------
    FailedPrecondition
        ``migrations_missing``.
    Unavailable
        ``registry_unavailable``.
    """
    with _connection(url) as connection:
        command.downgrade(_config(connection), revision)


def current(url: str) -> str | None:
    """Return the migration that the database is at; None before the first.

    Raises
    ------
    Unavailable
        ``registry_unavailable``.
    """
    with _connection(url) as connection:
        return _current(connection)


def head() -> str:
    """Return the newest migration of this version.

    Raises
    ------
    FailedPrecondition
        ``migrations_missing``.
    """
    newest = _scripts().get_current_head()
    assert newest is not None, "there is at least the initial migration"
    return newest


def check_current(database: Database) -> None:
    """Check that an open database is at this version's migration.

    Raises
    ------
    FailedPrecondition
        ``schema_out_of_date``; ``migrations_missing``.
    """
    with database.read() as session:
        at = _current(session.connection())
    _refuse_newer(at)
    if at != head():
        message = f"The registry's database is at migration {at or 'none'}, not {head()}: run `horen db upgrade`."
        raise FailedPrecondition(message, code="schema_out_of_date")


@contextmanager
def _connection(url: str) -> Iterator[Connection]:
    database = Database(url)
    try:
        with database.connect() as connection:
            yield connection
    finally:
        database.close()


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(at: str | None) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if at is not None and at not in known:
        message = f"The registry's database is at migration {at}, which this version of horen-vllm does not know."
        raise FailedPrecondition(message, code="schema_out_of_date")


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    # Percent signs are the configuration parser's.
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _folder() -> Path:
    """Return the migrations, which stand beside the package in a checkout and in an installation."""
    folder = Path(horen_vllm.__file__).parent.parent / "migrations"
    if not (folder / "env.py").is_file():
        message = f"The registry's migrations are not at {folder}: install horen-vllm again."
        raise FailedPrecondition(message, code="migrations_missing")
    return folder
