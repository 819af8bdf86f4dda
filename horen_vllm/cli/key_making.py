"""Where a new key is made, and where its secret goes."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from horen_vllm.cli.output import moment, print_fields, print_json
from horen_vllm.cli.secret_file import secret_file
from horen_vllm.errors import InvalidArgument
from horen_vllm.registry.models import KeyScope

if TYPE_CHECKING:
    from horen_vllm.control.messages import CreatedKey


def create_in_database(url: str, tenant: str | None, scope: KeyScope, lifetime_s: float | None) -> "CreatedKey":
    """Make a key in the database itself: whoever can write there needs no other key, and so makes the first one.

    Raises
    ------
    FailedPrecondition
        ``schema_out_of_date``.
    NotFound
        ``unknown_tenant``.
    InvalidArgument
        ``invalid_key_scope``, ``invalid_lifetime`` or ``invalid_name``.
    """
    from horen_vllm.control.limits import check_key_scope, check_lifetime  # noqa: PLC0415
    from horen_vllm.control.messages import CreatedKey  # noqa: PLC0415
    from horen_vllm.ids import TenantId, parse_name  # noqa: PLC0415
    from horen_vllm.keys import new_key  # noqa: PLC0415
    from horen_vllm.registry.store import SqlRegistry  # noqa: PLC0415 - SQLAlchemy

    owner = None if tenant is None else TenantId(parse_name(tenant, "tenant"))
    check_key_scope(scope, owner)
    lifetime = check_lifetime(lifetime_s or 0.0)
    registry = SqlRegistry(url)
    try:
        registry.check_schema()
        made = new_key()
        record = registry.add_key(made.key_id, made.digest, tenant=owner, scope=scope, lifetime_s=lifetime)
    finally:
        registry.close()
    return CreatedKey(key=record, secret=made.secret)


def check_one_place(database: str | None, control: str | None, home: Path | None) -> None:
    """Refuse a database beside a control plane; InvalidArgument ``database_ambiguous``."""
    if database and (control or home):
        message = "--database makes the key without a control plane: leave --control and --home out."
        raise InvalidArgument(message, code="database_ambiguous")


def make_and_show(make: Callable[[], "CreatedKey"], target: Path | None, *, as_json: bool) -> None:
    """Make a key and print it with its secret; with a `target` the secret goes into that file and nowhere else.

    Raises
    ------
    FailedPrecondition
        ``secret_file_not_writable``; nothing is made then.
    """
    with ExitStack() as held:
        write = held.enter_context(secret_file(target)) if target is not None else None
        made = make()
        if write is not None:
            write(made.secret)
    if as_json:
        print_json(made if target is None else {"key": made.key, "secret_file": str(target)})
        return
    shown = ("secret", made.secret) if target is None else ("secret in", target)
    print_fields(
        (
            shown,
            ("key", made.key.key_id),
            ("tenant", made.key.tenant),
            ("scope", made.key.scope.value),
            ("expires", moment(made.key.expires_at)),
        )
    )
    if target is None:
        typer.echo("The secret is not shown again.", err=True)
