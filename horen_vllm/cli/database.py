"""Which database a command works on."""

import os
from pathlib import Path
from typing import Annotated

import typer

from horen_vllm.cli.layout import HomeLayout
from horen_vllm.errors import InvalidArgument

DatabaseOption = Annotated[
    str | None, typer.Option("--database", metavar="URL", help="Database, as an SQLAlchemy URL (env: HOREN_DATABASE).")
]
DatabaseHomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Home whose embedded database is meant (env: HOREN_HOME)."),
]


def database_url(database: str | None, home: Path | None) -> str:
    """Return the URL: `database`, or the one in `home`; else ``HOREN_DATABASE``, else the one in ``HOREN_HOME``.

    Raises
    ------
    InvalidArgument
        ``database_required``, when none is named; ``database_ambiguous``, when both are.
    """
    if database and home:
        raise InvalidArgument("--database and --home name two databases: give one.", code="database_ambiguous")
    url = database or (None if home else os.environ.get("HOREN_DATABASE"))
    folder = home or os.environ.get("HOREN_HOME")
    if not url and not folder:
        raise InvalidArgument("no database is named: give --database URL or --home DIR.", code="database_required")
    return url or HomeLayout(Path(str(folder))).database_url
