"""``horen db``: the registry's schema."""

import typer

from horen_vllm.cli.database import DatabaseHomeOption, DatabaseOption, database_url
from horen_vllm.cli.layout import HomeLayout
from horen_vllm.cli.output import JsonFlag, print_json

app = typer.Typer(help="Bring the registry's database up to date, or look whether it is.", no_args_is_help=True)


@app.command()
def upgrade(*, database: DatabaseOption = None, home: DatabaseHomeOption = None, as_json: JsonFlag = False) -> None:
    """Bring the database to this version's schema, creating it if it is empty."""
    from horen_vllm.registry import migrate  # noqa: PLC0415 - SQLAlchemy and Alembic

    url = database_url(database, home)
    if home is not None:
        HomeLayout(home).create()
    migrate.upgrade(url)
    _print_migration(migrate.head(), as_json=as_json)


@app.command()
def check(*, database: DatabaseOption = None, home: DatabaseHomeOption = None, as_json: JsonFlag = False) -> None:
    """Look whether the database is at this version's schema."""
    from horen_vllm.registry.migrate import head  # noqa: PLC0415 - SQLAlchemy and Alembic
    from horen_vllm.registry.store import SqlRegistry  # noqa: PLC0415

    registry = SqlRegistry(database_url(database, home))
    try:
        registry.check_schema()
    finally:
        registry.close()
    _print_migration(head(), as_json=as_json)


def _print_migration(migration: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"migration": migration})
    else:
        typer.echo(f"the database is at migration {migration}, as this version needs it.")
