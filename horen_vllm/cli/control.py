"""``horen control``: the control plane as a process of its own."""

from pathlib import Path
from typing import Annotated

import typer

from horen_vllm.cli.connection import DEFAULT_CONTROL
from horen_vllm.cli.database import DatabaseHomeOption, DatabaseOption, database_url
from horen_vllm.cli.interrupts import stop_on_signals
from horen_vllm.cli.logs import configure_logs
from horen_vllm.cli.model_folder import open_model_folder
from horen_vllm.cli.ports import parse_address

ModelOption = Annotated[Path, typer.Option("--model", metavar="DIR", help="Folder of the base model.")]
SiteOption = Annotated[
    str | None,
    typer.Option("--site", metavar="MODULE", help="Edit site (default: the paper's choice for the model)."),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name to serve the model under (default: the folder's, in lower case).")
]


def control(
    *,
    model: ModelOption,
    database: DatabaseOption = None,
    home: DatabaseHomeOption = None,
    name: NameOption = None,
    site: SiteOption = None,
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address to listen on.")] = DEFAULT_CONTROL,
) -> None:
    """Run the control plane until SIGINT or SIGTERM."""
    # torch, gRPC and SQLAlchemy, which other commands do not need.
    import structlog  # noqa: PLC0415

    from horen_vllm.control.server import serve  # noqa: PLC0415
    from horen_vllm.control.settings import ControlSettings  # noqa: PLC0415
    from horen_vllm.fingerprint import model_fingerprint  # noqa: PLC0415
    from horen_vllm.registry.store import SqlRegistry  # noqa: PLC0415

    configure_logs()
    folder = open_model_folder(model, name=name, site=site)
    host, port = parse_address(address)
    settings = ControlSettings(
        model=folder.name,
        fingerprint=model_fingerprint(folder.path, folder.site),
        site=folder.site,
        host=host,
        port=port,
    )
    registry = SqlRegistry(database_url(database, home))
    try:
        with stop_on_signals() as stop, serve(registry, settings) as server:
            structlog.get_logger().info("control plane serves", address=server.address, model=folder.name)
            stop.wait()
    finally:
        registry.close()
