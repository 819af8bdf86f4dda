"""``horen tenant``: who owns codebooks."""

from typing import Annotated, Final

import typer

from horen_vllm.cli.codebook_options import DryRunFlag, RequestIdOption
from horen_vllm.cli.connection import ControlOption, HomeOption, connect
from horen_vllm.cli.output import JsonFlag, moment, print_json, print_rows
from horen_vllm.errors import InvalidArgument

NO_LIMIT: Final = "none"
"""Lifts a limit."""

LimitOption = Annotated[str | None, typer.Option(metavar="N|none", help="New limit; none lifts it.")]

app = typer.Typer(help="Make and list tenants, and limit them.", no_args_is_help=True)


@app.command()
def create(
    *,
    name: Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant.")],
    request_id: RequestIdOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a tenant."""
    with connect(control, home) as client:
        made = client.create_tenant(name, request_id=request_id)
    if as_json:
        print_json(made)
    else:
        typer.echo(f"tenant {made.name} is there; `horen key create {made.name}` makes a key for it.")


@app.command("list")
def list_(*, control: ControlOption = None, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the tenants."""
    with connect(control, home) as client:
        tenants = list(client.list_tenants())
    columns = (
        ("TENANT", lambda tenant: tenant.name),
        ("CREATED", lambda tenant: moment(tenant.created_at)),
    )
    print_rows(tenants, columns, as_json=as_json)


@app.command()
def quota(
    *,
    name: Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant.")],
    max_codebooks: LimitOption = None,
    max_entries: LimitOption = None,
    max_pending: LimitOption = None,
    edits_per_minute: LimitOption = None,
    request_id: RequestIdOption = None,
    validate_only: DryRunFlag = False,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a tenant may use and what it uses, or change it."""
    given = {
        "max_codebooks": max_codebooks,
        "max_entries": max_entries,
        "max_pending": max_pending,
        "edits_per_minute": edits_per_minute,
    }
    limits = {limit: _limit(limit, text) for limit, text in given.items() if text is not None}
    with connect(control, home) as client:
        if limits:
            view = client.update_quota(name, limits, request_id=request_id, validate_only=validate_only)
        else:
            view = client.get_quota(name)
    if as_json:
        print_json(view)
        return
    rows = (
        ("codebooks", view.usage.codebooks, view.quota.max_codebooks),
        ("entries and unfinished edits", view.usage.entries + view.usage.pending, view.quota.max_entries),
        ("unfinished edits", view.usage.pending, view.quota.max_pending),
        ("edits a minute", None, view.quota.edits_per_minute),
    )
    columns = (
        ("WHAT", lambda row: row[0]),
        ("USED", lambda row: row[1]),
        ("LIMIT", lambda row: "none" if row[2] is None else row[2]),
    )
    print_rows(rows, columns, as_json=False)


def _limit(name: str, text: str) -> int | None:
    if text == NO_LIMIT:
        return None
    try:
        return int(text)
    except ValueError as exc:
        message = f"--{name.replace('_', '-')} is {text!r}; it must be a number, or {NO_LIMIT!r}."
        raise InvalidArgument(message, code="invalid_quota") from exc
