"""Which control plane a command talks to."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from horen_vllm.cli.layout import HomeLayout
from horen_vllm.ids import DEFAULT_TENANT

if TYPE_CHECKING:
    from horen_vllm.control.client import HorenClient

DEFAULT_CONTROL: Final = "127.0.0.1:8950"
"""Where the control plane listens unless told otherwise."""

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
    typer.Option("--tenant", metavar="TENANT", help=f"Whose codebook (env: HOREN_TENANT; {DEFAULT_TENANT})."),
]


def control_address(control: str | None, home: Path | None) -> str:
    """Return the control plane's address: options before the environment, an address before a home.

    Raises
    ------
    Unavailable
        ``stack_not_running``, when a home is named in which nothing runs.
    DataLoss
        ``endpoints_unreadable``.
    """
    if control or home:
        return control or HomeLayout(Path(home or ".")).read_endpoints().control
    if address := os.environ.get("HOREN_CONTROL"):
        return address
    if named := os.environ.get("HOREN_HOME"):
        return HomeLayout(Path(named)).read_endpoints().control
    return DEFAULT_CONTROL


def connect(control: str | None, home: Path | None) -> "HorenClient":
    """Return a client of the control plane that the options name; raises as `control_address`."""
    # gRPC costs a quarter of a second that `horen --help` does not need.
    from horen_vllm.control.client import HorenClient  # noqa: PLC0415

    return HorenClient(control_address(control, home))


def tenant_of(tenant: str | None) -> str:
    """Return the tenant that the option, else the environment, names."""
    return tenant or os.environ.get("HOREN_TENANT") or DEFAULT_TENANT


def codebook_of(codebook: str, tenant: str | None) -> str:
    """Return the resource name of a codebook of `tenant`; a resource name stays as it is."""
    return codebook if "/" in codebook else f"tenants/{tenant_of(tenant)}/codebooks/{codebook}"


def edit_of(edit: str, tenant: str | None) -> str:
    """Return the resource name of an edit of `tenant`; a resource name stays as it is."""
    return edit if "/" in edit else f"tenants/{tenant_of(tenant)}/codebooks/-/edits/{edit}"
