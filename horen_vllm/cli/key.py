"""``horen key``: what clients show to the server."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from horen_vllm.cli.connection import ControlOption, HomeOption, connect
from horen_vllm.cli.output import JsonFlag, moment, print_fields, print_json, print_rows
from horen_vllm.registry.models import KeyScope

if TYPE_CHECKING:
    from horen_vllm.registry.models import KeyRecord

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

_DAY_S = 86_400


@app.command()
def create(
    *,
    tenant: Annotated[
        str | None, typer.Argument(metavar="TENANT", help="Whose data the key opens; none for --scope admin.")
    ] = None,
    scope: Annotated[KeyScope, typer.Option(help="What the key opens.")] = KeyScope.READ,
    days: Annotated[
        float | None, typer.Option(min=0.01, metavar="DAYS", help="Days until it expires (default: never).")
    ] = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and print its secret, once."""
    with connect(control, home) as client:
        made = client.create_key(tenant, scope=scope, lifetime_s=None if days is None else days * _DAY_S)
    if as_json:
        print_json(made)
        return
    print_fields(
        (
            ("secret", made.secret),
            ("key", made.key.key_id),
            ("tenant", made.key.tenant),
            ("scope", made.key.scope.value),
            ("expires", moment(made.key.expires_at)),
        )
    )
    typer.echo("The secret is not shown again.", err=True)


@app.command("list")
def list_(
    *,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only the keys of this tenant.")] = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the keys, oldest first; never their secrets."""
    with connect(control, home) as client:
        keys = sorted(client.list_keys(tenant), key=lambda key: key.created_at)
    columns = (
        ("KEY", lambda key: key.key_id),
        ("TENANT", lambda key: key.tenant),
        ("SCOPE", lambda key: key.scope.value),
        ("STATE", _state),
        ("CREATED", lambda key: moment(key.created_at)),
        ("EXPIRES", lambda key: moment(key.expires_at)),
    )
    print_rows(keys, columns, as_json=as_json)


@app.command()
def revoke(
    *,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, as `horen key list` shows it.")],
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key worthless."""
    with connect(control, home) as client:
        revoked = client.revoke_key(key)
    if as_json:
        print_json(revoked)
    else:
        typer.echo(f"key {revoked.key_id} is revoked; servers that know it forget it within HOREN_KEY_CACHE_S seconds.")


def _state(key: "KeyRecord") -> str:
    if key.revoked_at is not None:
        return "revoked"
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return "expired" if expired else "valid"
