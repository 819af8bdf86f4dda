"""``horen db``: the registry's schema, what it may forget, and that it was restored."""

import os
from typing import Annotated, Final

import typer

from horen_vllm.cli.artifacts import ArtifactsOption, artifact_source
from horen_vllm.cli.database import DatabaseHomeOption, DatabaseOption, database_url
from horen_vllm.cli.layout import HomeLayout
from horen_vllm.cli.output import JsonFlag, print_json

app = typer.Typer(help="Look after the registry's database.", no_args_is_help=True)
DEFAULT_GRACE_H: Final = 24.0
"""Longer than any worker takes from storing an entry to publishing it."""


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


@app.command()
def restored(*, database: DatabaseOption = None, home: DatabaseHomeOption = None, as_json: JsonFlag = False) -> None:
    """Say once that the database was restored from a backup, before anything that uses it starts."""
    from horen_vllm.registry.store import SqlRegistry  # noqa: PLC0415 - SQLAlchemy

    registry = SqlRegistry(database_url(database, home))
    try:
        registry.check_schema()
        epoch = registry.begin_epoch()
    finally:
        registry.close()
    if as_json:
        print_json({"epoch": epoch})
    else:
        typer.echo(f"the registry is of epoch {epoch} now: every server will load its codebooks anew.")


@app.command()
def gc(
    *,
    keep: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Revisions of each codebook to keep (default: all).")
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0.0, metavar="HOURS", help="Age from which a file may go, twice: see the how-to.")
    ] = DEFAULT_GRACE_H,
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="Take over files that the registry does not know; no other may use the store."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which files would be condemned; change nothing.")
    ] = False,
    artifacts: ArtifactsOption = None,
    database: DatabaseOption = None,
    home: DatabaseHomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Forget old revisions, codebooks that were deleted a month ago, and files that nothing needs any more."""
    from horen_vllm.cli.collect import collect, print_collection  # noqa: PLC0415 - SQLAlchemy and fsspec
    from horen_vllm.registry.store import SqlRegistry  # noqa: PLC0415

    store = artifact_source(artifacts, home=home, otherwise=os.environ.get("HOREN_HOME")).open()
    registry = SqlRegistry(database_url(database, home))
    try:
        registry.check_schema()
        found = collect(registry, store, keep=keep, grace_s=grace * 3_600, adopt=adopt, dry_run=dry_run)
    finally:
        registry.close()
    if as_json:
        print_json(found)
    else:
        print_collection(found, dry_run=dry_run)


def _print_migration(migration: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"migration": migration})
    else:
        typer.echo(f"the database is at migration {migration}, as this version needs it.")
