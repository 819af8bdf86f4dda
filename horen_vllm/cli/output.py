"""What commands print: JSON for scripts, tables for people."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from horen_vllm.ids import CodebookName

R = TypeVar("R")

FREE_TEXT: Final = frozenset({"PROMPT", "TARGET", "WHY"})
"""Headings of columns with sentences."""
_WIDE: Final = 10_000
"""Characters of a line that no terminal breaks."""

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def plain(value: Any) -> Any:
    """Return `value` as JSON types: views become objects, names and times become text."""
    if isinstance(value, CodebookName | StrEnum):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """Print one JSON document on one line."""
    typer.echo(json.dumps(plain(value), ensure_ascii=False))


def print_rows(rows: Iterable[R], columns: Sequence[tuple[str, Callable[[R], object]]], *, as_json: bool) -> None:
    """Print a table with a column for each (heading, cell) pair, or a JSON array of the whole rows.

    Only the columns whose headings are `FREE_TEXT` are wrapped in a narrow terminal.
    """
    if as_json:
        print_json(list(rows))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, _ in columns:
        table.add_column(heading, overflow="fold", no_wrap=heading not in FREE_TEXT)
    for row in rows:
        table.add_row(*(_cell(read(row)) for _, read in columns))
    _print_table(table)


def print_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print one line for each name and value; values that are None or empty are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None and value not in ("", ()):
            table.add_row(name, _cell(value))
    _print_table(table)


def moment(time: datetime | None) -> str | None:
    """Return a time as people read it, in this machine's zone, to the second."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else None


def _print_table(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        # Lines of a file or a pipe are for grep, so they are not broken.
        console.width = _WIDE
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return escape(", ".join(map(str, value)))
    return escape(str(value))
