"""``horen tenant``: who owns codebooks."""

from typing import Annotated

import typer

from horen_vllm.cli.connection import ControlOption, HomeOption, connect
from horen_vllm.cli.output import JsonFlag, moment, print_json, print_rows

app = typer.Typer(help="Make and list tenants.", no_args_is_help=True)


@app.command()
def create(
    *,
    name: Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant.")],
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a tenant."""
    with connect(control, home) as client:
        made = client.create_tenant(name)
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
