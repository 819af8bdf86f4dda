"""``horen worker``: an editor worker as a process of its own; any number may share a database."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from horen_vllm.cli.control import ModelOption, SiteOption
from horen_vllm.cli.database import DatabaseHomeOption, DatabaseOption, database_url
from horen_vllm.cli.interrupts import stop_on_signals
from horen_vllm.cli.logs import configure_logs
from horen_vllm.cli.model_folder import open_model_folder
from horen_vllm.cli.ports import LOOPBACK, claim_port

if TYPE_CHECKING:
    import torch

    from horen_vllm.editor.loading.ranks import Ranks
    from horen_vllm.editor.working.metrics import EditorMetrics

_MIB: Final = 1 << 20
_MEMORY_SHARE: Final = 4
"""One part in so many of the free memory is for the work on edits; the rest is for what they leave behind."""
_UNKNOWN_MEMORY_MIB: Final = 1024


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
    tensor_parallel: Annotated[
        bool, typer.Option("--tensor-parallel", help="Share the model among the ranks that torchrun has started.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Most edits that are made together.")] = 64,
    memory_mib: Annotated[
        int | None,
        typer.Option(
            min=1, help="Memory that the work on edits may take at once (default: a quarter of what is free)."
        ),
    ] = None,
    lease: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="How long an edit waits for a worker that died.")
    ] = 20.0,
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
    url = database_url(database, home)
    # torch and transformers, which other commands do not need.
    import structlog  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from horen_vllm.artifact import ArtifactFolder  # noqa: PLC0415
    from horen_vllm.editor.loading.model import load_editable_model  # noqa: PLC0415
    from horen_vllm.editor.loading.ranks import ALONE, join_ranks  # noqa: PLC0415
    from horen_vllm.editor.loading.self_check import check_tail  # noqa: PLC0415
    from horen_vllm.editor.memory import MemoryLimit  # noqa: PLC0415
    from horen_vllm.editor.passes import follow  # noqa: PLC0415
    from horen_vllm.editor.working.metrics import EditorMetrics  # noqa: PLC0415
    from horen_vllm.editor.working.worker import EditorWorker  # noqa: PLC0415
    from horen_vllm.registry.store import SqlRegistry  # noqa: PLC0415

    configure_logs()
    torch.set_num_threads(threads)
    ranks, device = join_ranks(device) if tensor_parallel else (ALONE, device)
    registry, metrics = SqlRegistry(url), EditorMetrics()
    try:
        if ranks.leads:
            registry.check_schema()
        editable = load_editable_model(str(folder.path), folder.site, getattr(torch, dtype.value), device, ranks)
        check_tail(editable)
        memory = MemoryLimit(_memory_mib(memory_mib, editable.device, ranks) * _MIB, ranks)
        if not ranks.leads:
            # Rank 0 hears of signals, too, and ends its batch first.
            with stop_on_signals():
                follow(editable, memory)
            return
        editor = EditorWorker(
            registry=registry,
            artifacts=ArtifactFolder(artifacts),
            editable=editable,
            worker_id=worker_id or f"worker-{socket.gethostname()}-{os.getpid()}",
            memory=memory,
            batch=batch,
            metrics=metrics,
            lease_s=lease,
        )
        with stop_on_signals() as stop, _metrics_page(metrics, metrics_port):
            structlog.get_logger().info(
                "editor worker takes edits",
                site=folder.site,
                threads=threads,
                batch=batch,
                memory_mib=memory.limit_bytes // _MIB,
            )
            if ready_file is not None:
                ready_file.touch()
            editor.run(stop)
        ranks.dismiss()
    finally:
        registry.close()
        if ready_file is not None and ranks.leads:
            ready_file.unlink(missing_ok=True)


def _memory_mib(chosen: int | None, device: "torch.device", ranks: "Ranks") -> int:
    """Return what was chosen, or a quarter of the memory that is free on `device` now."""
    from horen_vllm.editor.loading.model_size import available_bytes  # noqa: PLC0415 - torch

    if chosen is not None:
        return chosen
    free = available_bytes(device)
    if free is None:
        return _UNKNOWN_MEMORY_MIB
    sharers = ranks.hosted if device.type == "cpu" else 1
    return max(1, ranks.least(free) // sharers // _MEMORY_SHARE // _MIB)


@contextmanager
def _metrics_page(metrics: "EditorMetrics", port: int | None) -> Iterator[None]:
    if port is None:
        yield
        return
    import structlog  # noqa: PLC0415
    from prometheus_client import start_http_server  # noqa: PLC0415

    server, thread = start_http_server(claim_port(port, "--metrics-port"), addr=LOOPBACK, registry=metrics.registry)
    structlog.get_logger().info("metrics are served", url=f"http://{LOOPBACK}:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
