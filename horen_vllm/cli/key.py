"""``horen key``: what clients show to the server."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from horen_vllm.cli.connection import ControlOption, HomeOption, connect
from horen_vllm.cli.key_making import check_one_place, create_in_database, make_and_show
from horen_vllm.cli.output import JsonFlag, moment, print_json, print_rows
from horen_vllm.registry.models import KeyScope

if TYPE_CHECKING:
    from horen_vllm.control.messages import CreatedKey
    from horen_vllm.registry.models import KeyRecord

app = typer.Typer(help="Make, list, rotate and revoke API keys.", no_args_is_help=True)

_DAY_S = 86_400
_HOUR_S = 3_600


SecretFileOption = Annotated[
    Path | None,
    typer.Option("--secret-file", metavar="FILE", help="Write the secret to this file, for its owner's eyes only."),
]


@app.command()
def create(
    *,
    tenant: Annotated[
        str | None,
        typer.Argument(metavar="TENANT", help="Whose data the key opens; none for --scope admin or replica."),
    ] = None,
    scope: Annotated[KeyScope, typer.Option(help="What the key opens.")] = KeyScope.READ,
    days: Annotated[
        float | None, typer.Option(min=0.01, metavar="DAYS", help="Days until it expires (default: never).")
    ] = None,
    secret_file: SecretFileOption = None,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Make it in this database, without a control plane: so the first admin key."),
    ] = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and print its secret, once."""
    check_one_place(database, control, home)
    lifetime_s = None if days is None else days * _DAY_S

    def make() -> "CreatedKey":
        if database:
            return create_in_database(database, tenant, scope, lifetime_s)
        with connect(control, home) as client:
            return client.create_key(tenant, scope=scope, lifetime_s=lifetime_s)

    make_and_show(make, secret_file, as_json=as_json)


@app.command()
def rotate(
    *,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, as `horen key list` shows it.")],
    overlap: Annotated[
        float, typer.Option(min=0.0, max=2160.0, metavar="HOURS", help="How long the old key goes on working.")
    ] = 24.0,
    secret_file: SecretFileOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key that takes another one's place, and print its secret, once."""

    def make() -> "CreatedKey":
        with connect(control, home) as client:
            return client.rotate_key(key, overlap_s=overlap * _HOUR_S)

    make_and_show(make, secret_file, as_json=as_json)


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
        typer.echo(
            f"key {revoked.key_id} is revoked; who has just looked it up forgets it within seconds (HOREN_KEY_CACHE_S)."
        )


def _state(key: "KeyRecord") -> str:
    if key.revoked_at is not None:
        return "revoked"
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return "expired" if expired else "valid"
