"""``horen control``: the control plane as a process of its own."""

from pathlib import Path
from typing import Annotated, Final

import typer

from horen_vllm.cli.artifacts import ArtifactsOption, known_artifacts
from horen_vllm.cli.connection import DEFAULT_CONTROL
from horen_vllm.cli.database import DatabaseHomeOption, DatabaseOption, database_url
from horen_vllm.cli.model_folder import open_model_folder
from horen_vllm.cli.ports import LOOPBACK, parse_address
from horen_vllm.control.settings import ControlAuth

CONTROL_TLS: Final = ("HOREN_CONTROL_TLS_CERT", "HOREN_CONTROL_TLS_KEY", "HOREN_CONTROL_TLS_CLIENT_CA")
"""Variables that make a control plane speak TLS."""

ModelOption = Annotated[Path, typer.Option("--model", metavar="DIR", help="Folder of the base model.")]
SiteOption = Annotated[
    str | None,
    typer.Option("--site", metavar="MODULE", help="Edit site (default: the paper's choice for the model)."),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name to serve the model under (default: the folder's, in lower case).")
]


def _file(option: str, variable: str, text: str) -> object:
    return typer.Option(option, metavar="FILE", envvar=variable, help=text, rich_help_panel="Security")


def control(
    *,
    model: ModelOption,
    database: DatabaseOption = None,
    artifacts: ArtifactsOption = None,
    home: DatabaseHomeOption = None,
    name: NameOption = None,
    site: SiteOption = None,
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address to listen on.")] = DEFAULT_CONTROL,
    auth: Annotated[
        ControlAuth,
        typer.Option(
            envvar="HOREN_CONTROL_AUTH",
            help="Who is let in: everybody on this machine, or who shows an API key.",
            rich_help_panel="Security",
        ),
    ] = ControlAuth.NONE,
    key_cache: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=300.0,
            metavar="SECONDS",
            envvar="HOREN_CONTROL_KEY_CACHE_S",
            help="Longest life of a revoked key.",
            rich_help_panel="Security",
        ),
    ] = 10.0,
    tls_cert: Annotated[Path | None, _file("--tls-cert", CONTROL_TLS[0], "Certificate to show, in PEM.")] = None,
    tls_key: Annotated[Path | None, _file("--tls-key", CONTROL_TLS[1], "The certificate's private key.")] = None,
    tls_client_ca: Annotated[
        Path | None, _file("--tls-client-ca", CONTROL_TLS[2], "CA of the certificates that clients must show, too.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port for Prometheus metrics; 0: a free one (default: none).")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for them; they name no tenant.")] = LOOPBACK,
) -> None:
    """Run the control plane until SIGINT or SIGTERM."""
    folder = open_model_folder(model, name=name, site=site)
    host, port = parse_address(address)
    url = database_url(database, home)
    # torch, gRPC and SQLAlchemy, which other commands do not need.
    from horen_vllm.cli.control_run import ControlOptions, run_control  # noqa: PLC0415

    options = ControlOptions(
        folder=folder,
        database=url,
        artifacts=known_artifacts(artifacts, home, database),
        host=host,
        port=port,
        auth=auth,
        key_cache_s=key_cache,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
    )
    run_control(options)
