"""``horen worker``: an editor worker as a process of its own; any number may share a database."""

import os
import socket
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from horen_vllm.cli.control import ModelOption, SiteOption
from horen_vllm.cli.database import DatabaseHomeOption, DatabaseOption, database_url
from horen_vllm.cli.interrupts import stop_on_signals
from horen_vllm.cli.logs import configure_logs
from horen_vllm.cli.model_folder import open_model_folder


class WorkerDtype(StrEnum):
    """Types in which the editor can hold the model's weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def worker(
    *,
    model: ModelOption,
    artifacts: Annotated[Path, typer.Option(metavar="DIR", help="Folder to store trained entries in.")],
    database: DatabaseOption = None,
    home: DatabaseHomeOption = None,
    site: SiteOption = None,
    worker_id: Annotated[
        str | None, typer.Option("--id", help="Name of this worker in claims (default: host and process).")
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device to train on.")] = "cpu",
    dtype: Annotated[WorkerDtype, typer.Option(help="Type of the weights while training.")] = WorkerDtype.FLOAT32,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    lease: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="How long an edit waits for a worker that died.")
    ] = 20.0,
    ready_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to make once edits can be taken; removed at the end.")
    ] = None,
) -> None:
    """Train and publish submitted edits until SIGINT or SIGTERM."""
    folder = open_model_folder(model, site=site)
    url = database_url(database, home)
    # torch and transformers, which other commands do not need.
    import structlog  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from horen_vllm.artifact import ArtifactFolder  # noqa: PLC0415
    from horen_vllm.editor.model import load_editable_model  # noqa: PLC0415
    from horen_vllm.editor.worker import EditorWorker  # noqa: PLC0415
    from horen_vllm.registry.store import SqlRegistry  # noqa: PLC0415

    configure_logs()
    torch.set_num_threads(threads)
    registry = SqlRegistry(url)
    try:
        registry.check_schema()
        editor = EditorWorker(
            registry=registry,
            artifacts=ArtifactFolder(artifacts),
            editable=load_editable_model(str(folder.path), folder.site, getattr(torch, dtype.value), device),
            worker_id=worker_id or f"worker-{socket.gethostname()}-{os.getpid()}",
            lease_s=lease,
        )
        with stop_on_signals() as stop:
            structlog.get_logger().info("editor worker takes edits", site=folder.site, threads=threads)
            if ready_file is not None:
                ready_file.touch()
            editor.run(stop)
    finally:
        registry.close()
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
