"""``horen audit``: what was done, by whom."""

import json
from typing import Annotated

import typer

from horen_vllm.cli.connection import ControlOption, HomeOption, connect
from horen_vllm.cli.output import JsonFlag, moment, print_rows

app = typer.Typer(help="Look at what was done, by whom.", no_args_is_help=True)


# Without this the help would be that of a command without a name.
@app.callback()
def root() -> None:
    """Look at what was done, by whom."""


@app.command("list")
def list_(
    *,
    tenant: Annotated[
        str | None, typer.Option(metavar="TENANT", help="Only what concerns this tenant (default: everything).")
    ] = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the events of the audit log, oldest first."""
    with connect(control, home) as client:
        events = list(client.list_audit_events(tenant))
    columns = (
        ("NUMBER", lambda event: event.number),
        ("WHEN", lambda event: moment(event.created_at)),
        ("ACTOR", lambda event: event.actor),
        ("METHOD", lambda event: event.method),
        ("RESOURCE", lambda event: event.resource),
        ("DETAIL", lambda event: json.dumps(event.detail) if event.detail else None),
    )
    print_rows(events, columns, as_json=as_json)
