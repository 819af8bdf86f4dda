"""An editor worker from its options: the model loaded and checked, its rank's part played until a signal comes."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import torch

from horen_vllm.artifacts.opening import ArtifactSource
from horen_vllm.cli.interrupts import stop_on_signals
from horen_vllm.cli.logs import configure_logs
from horen_vllm.cli.metrics_page import metrics_page
from horen_vllm.editor.calibration.stored import first_calibration
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.editor.loading.model_size import available_bytes
from horen_vllm.editor.loading.ranks import ALONE, Ranks, join_ranks
from horen_vllm.editor.loading.self_check import check_tail
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.passes import follow
from horen_vllm.editor.working.metrics import EditorMetrics
from horen_vllm.editor.working.worker import EditorWorker
from horen_vllm.errors import HorenError
from horen_vllm.registry.store import SqlRegistry

_MIB: Final = 1 << 20
_MEMORY_SHARE: Final = 4
"""One part in so many of the free memory is for the work on edits; the rest is for what they leave behind."""
_UNKNOWN_MEMORY_MIB: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What ``horen worker`` was told; the command's help says what each means."""

    folder: str
    site: str
    database: str
    artifacts: ArtifactSource
    worker_id: str
    device: str
    dtype: str
    tensor_parallel: bool
    threads: int
    batch: int
    memory_mib: int | None
    lease_s: float
    calibrate: bool
    metrics_port: int | None
    ready_file: Path | None


def run_worker(options: WorkerOptions) -> None:
    """Train and publish edits, or follow the rank that does, until SIGINT or SIGTERM."""
    configure_logs()
    torch.set_num_threads(options.threads)
    ranks, device = join_ranks(options.device) if options.tensor_parallel else (ALONE, options.device)
    registry = SqlRegistry(options.database)
    try:
        if ranks.leads:
            registry.check_schema()
        dtype: torch.dtype = getattr(torch, options.dtype)
        editable = load_editable_model(options.folder, options.site, dtype, device, ranks)
        check_tail(editable)
        memory = MemoryLimit(_memory_mib(options.memory_mib, editable.device, ranks) * _MIB, ranks)
        if ranks.leads:
            _lead(options, registry, editable, memory)
            ranks.dismiss()
        else:
            # Rank 0 hears of signals, too, and ends its batch first.
            with stop_on_signals():
                follow(editable, memory)
    finally:
        registry.close()
        if options.ready_file is not None and ranks.leads:
            options.ready_file.unlink(missing_ok=True)


def _lead(options: WorkerOptions, registry: SqlRegistry, editable: EditableModel, memory: MemoryLimit) -> None:
    if options.calibrate:
        _calibrate(options, registry, editable, memory)
    metrics = EditorMetrics()
    editor = EditorWorker(
        registry=registry,
        artifacts=options.artifacts.open(),
        editable=editable,
        worker_id=options.worker_id,
        memory=memory,
        batch=options.batch,
        metrics=metrics,
        lease_s=options.lease_s,
    )
    with stop_on_signals() as stop, metrics_page(metrics.registry, options.metrics_port):
        structlog.get_logger().info(
            "editor worker takes edits",
            site=options.site,
            threads=options.threads,
            batch=options.batch,
            memory_mib=memory.limit_bytes // _MIB,
        )
        if options.ready_file is not None:
            options.ready_file.touch()
        editor.run(stop)


def _calibrate(options: WorkerOptions, registry: SqlRegistry, editable: EditableModel, memory: MemoryLimit) -> None:
    started = time.perf_counter()
    try:
        made = first_calibration(registry, options.artifacts.open(), editable, options.folder, memory)
    except HorenError as exc:
        # Presets that need no calibration work on any model.
        structlog.get_logger().warning("not calibrated", code=exc.code, reason=exc.message)
        return
    if made is not None:
        seconds = round(time.perf_counter() - started, 1)
        structlog.get_logger().info("calibrated on built-in prompts", version=made.version, seconds=seconds)


def _memory_mib(chosen: int | None, device: torch.device, ranks: Ranks) -> int:
    """Return what was chosen, or a quarter of the memory that is free on `device` now."""
    if chosen is not None:
        return chosen
    free = available_bytes(device)
    if free is None:
        return _UNKNOWN_MEMORY_MIB
    sharers = ranks.hosted if device.type == "cpu" else 1
    return max(1, ranks.least(free) // sharers // _MEMORY_SHARE // _MIB)
