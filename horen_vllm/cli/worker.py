"""``horen worker``: an editor worker as a process of its own; any number may share a database."""

import os
import socket
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from horen_vllm.cli.artifacts import ArtifactsOption, artifact_source
from horen_vllm.cli.control import ModelOption, SiteOption
from horen_vllm.cli.database import DatabaseHomeOption, DatabaseOption, database_url
from horen_vllm.cli.model_folder import open_model_folder


class WorkerDtype(StrEnum):
    """Types in which the editor can hold the model's weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def worker(
    *,
    model: ModelOption,
    database: DatabaseOption = None,
    home: DatabaseHomeOption = None,
    artifacts: ArtifactsOption = None,
    site: SiteOption = None,
    worker_id: Annotated[
        str | None, typer.Option("--id", help="Name of this worker in claims (default: host and process).")
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device to train on.")] = "cpu",
    dtype: Annotated[WorkerDtype, typer.Option(help="Type of the weights while training.")] = WorkerDtype.FLOAT32,
    tensor_parallel: Annotated[
        bool, typer.Option("--tensor-parallel", help="Share the model among the ranks that torchrun has started.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Most edits that are made together.")] = 64,
    memory_mib: Annotated[
        int | None,
        typer.Option(min=1, help="Most memory that the work on edits takes (default: a quarter of what is free)."),
    ] = None,
    lease: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="How long an edit waits for a worker that died.")
    ] = 20.0,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Calibrate the base model first, if it has no calibration yet.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port on 127.0.0.1 for Prometheus metrics; 0: a free one (default: none)."),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to make once edits can be taken; removed at the end.")
    ] = None,
) -> None:
    """Train and publish submitted edits until SIGINT or SIGTERM."""
    folder = open_model_folder(model, site=site)
    source = artifact_source(artifacts, home=home, otherwise=None if database else os.environ.get("HOREN_HOME"))
    # torch and transformers, which other commands do not need.
    from horen_vllm.cli.worker_run import WorkerOptions, run_worker  # noqa: PLC0415

    options = WorkerOptions(
        folder=str(folder.path),
        site=folder.site,
        database=database_url(database, home),
        artifacts=source,
        worker_id=worker_id or f"worker-{socket.gethostname()}-{os.getpid()}",
        device=device,
        dtype=dtype.value,
        tensor_parallel=tensor_parallel,
        threads=threads,
        batch=batch,
        memory_mib=memory_mib,
        lease_s=lease,
        calibrate=calibrate,
        metrics_port=metrics_port,
        ready_file=ready_file,
    )
    run_worker(options)
