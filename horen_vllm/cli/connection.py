"""Which control plane a command talks to, and how: with which key, and over which TLS."""

import functools
import inspect
import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from horen_vllm.cli.layout import HomeLayout

if TYPE_CHECKING:
    from horen_vllm.control.client import ClientTls, HorenClient

R = TypeVar("R")

CLEAR_TEXT: Final = {f"HOREN_TLS{name}": "" for name in ("", "_CA", "_CERT", "_KEY", "_SERVER_NAME")}
"""Variables that keep a child process from speaking TLS to a control plane on loopback that does not."""
DEFAULT_CONTROL: Final = "127.0.0.1:8950"
"""Where the control plane listens unless told otherwise."""
OWN_TENANT: Final = "-"
"""Tenant of whoever is asking, as `control.names.OWN_TENANT`."""

ControlOption = Annotated[
    str | None,
    typer.Option("--control", metavar="HOST:PORT", help=f"Control plane (env: HOREN_CONTROL; {DEFAULT_CONTROL})."),
]
HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Home of a running `horen up` (env: HOREN_HOME)."),
]
TenantOption = Annotated[
    str | None,
    typer.Option("--tenant", metavar="TENANT", help="Whose codebook (env: HOREN_TENANT; default: the key's tenant)."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How to speak to a control plane; what is None is nobody's wish."""

    api_key: str | None = field(default=None, repr=False)
    """Secret of the key."""
    api_key_file: Path | None = None
    """File that holds it."""
    tls: bool = False
    """Whether to speak TLS although nothing else of it is given."""
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_server_name: str | None = None

    def over_environment(self) -> "Security":
        """Return it with what the environment says of everything else; a key or key file outdoes both of there."""
        own_key = self.api_key or self.api_key_file
        ca, cert, key = (os.environ.get(f"HOREN_TLS_{name}") for name in ("CA", "CERT", "KEY"))
        return Security(
            api_key=self.api_key if own_key else os.environ.get("HOREN_API_KEY") or None,
            api_key_file=self.api_key_file if own_key else _path(os.environ.get("HOREN_API_KEY_FILE")),
            tls=self.tls or os.environ.get("HOREN_TLS") == "1",
            tls_ca=self.tls_ca or _path(ca),
            tls_cert=self.tls_cert or _path(cert),
            tls_key=self.tls_key or _path(key),
            tls_server_name=self.tls_server_name or os.environ.get("HOREN_TLS_SERVER_NAME") or None,
        )

    def client_tls(self) -> "ClientTls | None":
        """Return how to speak TLS; None: in clear text."""
        from horen_vllm.control.client import ClientTls  # noqa: PLC0415 - gRPC

        if not (self.tls or self.tls_ca or self.tls_cert or self.tls_key or self.tls_server_name):
            return None
        return ClientTls(ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key, server_name=self.tls_server_name)

    def environment(self) -> dict[str, str]:
        """Return the variables that tell another process the same; never an argument, which all users can read."""
        named = {
            "HOREN_API_KEY": self.api_key,
            "HOREN_API_KEY_FILE": self.api_key_file,
            "HOREN_TLS": "1" if self.tls else None,
            "HOREN_TLS_CA": self.tls_ca,
            "HOREN_TLS_CERT": self.tls_cert,
            "HOREN_TLS_KEY": self.tls_key,
            "HOREN_TLS_SERVER_NAME": self.tls_server_name,
        }
        return {name: str(value) for name, value in named.items() if value is not None}


_security: ContextVar[Security] = ContextVar("horen_cli_security", default=Security())  # noqa: B039 - frozen


def _option(name: str, kind: Any, text: str, metavar: str | None = None) -> inspect.Parameter:
    option = typer.Option(f"--{name.replace('_', '-')}", metavar=metavar, help=text, rich_help_panel="Connection")
    default = False if kind is bool else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


_OPTIONS: Final = (
    _option("api_key", str | None, "API key; better in HOREN_API_KEY or a file.", "KEY"),
    _option("api_key_file", Path | None, "File with the API key (env: HOREN_API_KEY_FILE).", "FILE"),
    _option("tls", bool, "Speak TLS, also where none of the following is given (env: HOREN_TLS=1)."),
    _option("tls_ca", Path | None, "CA of the control plane, in PEM (env: HOREN_TLS_CA).", "FILE"),
    _option("tls_cert", Path | None, "Own certificate, in PEM (env: HOREN_TLS_CERT).", "FILE"),
    _option("tls_key", Path | None, "Key of the own certificate (env: HOREN_TLS_KEY).", "FILE"),
    _option("tls_server_name", str | None, "Name in the control plane's certificate (env: HOREN_TLS_SERVER_NAME)."),
)


def secured(command: Callable[..., R]) -> Callable[..., R]:
    """Return `command` with the options that say how to speak to a control plane; `security` then has them."""
    names = {parameter.name for parameter in _OPTIONS}
    own = [it for it in inspect.signature(command).parameters.values() if it.kind is not it.VAR_KEYWORD]

    @functools.wraps(command)
    def run(*positional: Any, **given: Any) -> R:
        token = _security.set(Security(**{name: given.pop(name) for name in names}))
        try:
            return command(*positional, **given)
        finally:
            _security.reset(token)

    run.__signature__ = inspect.Signature([*own, *_OPTIONS])  # type: ignore[attr-defined]
    run.__annotations__ = {it.name: it.annotation for it in (*own, *_OPTIONS)}
    return run


def secure_commands(*apps: typer.Typer) -> None:
    """Make every command that has a ``--control`` option `secured`."""
    for app in apps:
        for info in app.registered_commands:
            if info.callback is not None and "control" in inspect.signature(info.callback).parameters:
                info.callback = secured(info.callback)


def security() -> Security:
    """Return how the running command speaks to its control plane: its options before the environment."""
    return _security.get().over_environment()


def control_endpoint(control: str | None, home: Path | None) -> tuple[str, bool]:
    """Return the control plane's address, and whether a home named it: there nothing but clear text is spoken.

    Options come before the environment, an address before a home.

    Raises
    ------
    Unavailable
        ``stack_not_running``, when a home is named in which nothing runs.
    DataLoss
        ``endpoints_unreadable``.
    """
    if control:
        return control, False
    if home is None and (address := os.environ.get("HOREN_CONTROL")):
        return address, False
    named = home or os.environ.get("HOREN_HOME")
    return (HomeLayout(Path(named)).read_endpoints().control, True) if named else (DEFAULT_CONTROL, False)


def connect(control: str | None, home: Path | None) -> "HorenClient":
    """Return a client of the control plane that the options name; raises as `control_endpoint` and `HorenClient`."""
    # gRPC costs a quarter of a second that `horen --help` does not need.
    from horen_vllm.control.client import HorenClient  # noqa: PLC0415

    address, at_home = control_endpoint(control, home)
    how = security()
    # Whatever the environment says of other control planes.
    tls = None if at_home else how.client_tls()
    return HorenClient(address, api_key=how.api_key, api_key_file=how.api_key_file, tls=tls)


def tenant_of(tenant: str | None) -> str:
    """Return the tenant that the option, else the environment, names, else the key's own."""
    return tenant or os.environ.get("HOREN_TENANT") or OWN_TENANT


def codebook_of(codebook: str, tenant: str | None) -> str:
    """Return the resource name of a codebook of `tenant`; a resource name stays as it is."""
    return codebook if "/" in codebook else f"tenants/{tenant_of(tenant)}/codebooks/{codebook}"


def edit_of(edit: str, tenant: str | None) -> str:
    """Return the resource name of an edit of `tenant`; a resource name stays as it is."""
    return edit if "/" in edit else f"tenants/{tenant_of(tenant)}/codebooks/-/edits/{edit}"


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
