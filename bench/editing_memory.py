"""What memory batches of edits take, each measured in a process of its own, and whether many edits in a row take more.

Resident memory on the CPU (as Linux counts it), what torch has allocated on a GPU.
"""

import gc
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from rich.console import Console
from rich.progress import track

from bench.editing_model import Subject, load_subject
from bench.editing_pairs import Setting
from bench.editing_sides import Book
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.registry.models import EditSpec

_MIB: Final = 2**20
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Job:
    """What a process of its own loads; it can be sent there."""

    name: str
    folder: Path
    edits: tuple[EditSpec, ...]
    device: str
    threads: int
    threshold: float
    limit_bytes: int

    @classmethod
    def of(cls, subject: Subject, setting: Setting) -> "Job":
        """Return the job of loading a subject again."""
        return cls(
            name=subject.name,
            folder=subject.folder,
            edits=subject.edits,
            device=subject.editable.device.type,
            threads=torch.get_num_threads(),
            threshold=subject.parameters.threshold,
            limit_bytes=setting.limit_bytes,
        )

    def load(self) -> tuple[Subject, Book]:
        """Return the subject, warmed up by two edits, and an empty codebook."""
        torch.set_num_threads(self.threads)
        subject = load_subject(self.folder, self.edits, name=self.name, device=self.device, threshold=self.threshold)
        book = Book(subject.editable, subject.parameters, MemoryLimit(self.limit_bytes))
        book.run(subject.take(0, 2), 2)
        book.forget()
        return subject, book


def measure_memory(
    subject: Subject, setting: Setting, batches: Sequence[int], in_a_row: int, console: Console
) -> dict[str, Any]:
    """Return the peak memory of one batch of each size, and of many edits in batches of `setting.batch`."""
    job = Job.of(subject, setting)
    peaks = [
        {"edits_a_batch": size, "peak_mib": _alone(batch_peak, job, size)}
        for size in track(batches, description="memory", console=console, transient=True)
    ]
    return {
        **subject.describe(),
        "memory_limit_mib": setting.limit_bytes // _MIB,
        "measured": "resident memory above the loaded model" if job.device == "cpu" else "allocated above the model",
        "one_batch": peaks,
        "in_a_row": _alone(row_growth, job, in_a_row, setting.batch),
    }


def batch_peak(job: Job, size: int) -> float:
    """Return how many MiB one batch takes at most, above what the process has with the model loaded."""
    subject, book = job.load()
    memory = Gauge(subject.editable)
    book.run(subject.take(0, size), size)
    return memory.peak_mib()


def row_growth(job: Job, count: int, batch: int) -> dict[str, Any]:
    """Return memory after the first and after the last of many batches, and how much of it is the codebook."""
    subject, book = job.load()
    memory = Gauge(subject.editable)
    held = []
    for start in range(0, count, batch):
        book.run(subject.take(start, min(batch, count - start)), batch)
        book.copy.update(book.copy.revision, [], [])
        held.append(memory.now_mib())
    half = held[len(held) // 2]
    return {
        "edits": count,
        "batch": batch,
        "after_first_batch_mib": held[0],
        "after_half_mib": half,
        "after_all_mib": held[-1],
        "growth_of_second_half_mib": held[-1] - half,
        "codebook_mib": _bytes_of(book) / _MIB,
        "entries": book.copy.entries,
        "peak_mib": memory.peak_mib(),
    }


class Gauge:
    """Memory above what is there when the gauge is made."""

    def __init__(self, editable: EditableModel) -> None:
        self._on_gpu = editable.device.type == "cuda"
        gc.collect()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            # Makes Linux count the peak anew: loading took more than is held now.
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._base = self._now()

    def now_mib(self) -> float:
        """Return what is held now."""
        gc.collect()
        return (self._now() - self._base) / _MIB

    def peak_mib(self) -> float:
        """Return the most that was held at once since the gauge was made."""
        peak = torch.cuda.max_memory_allocated() if self._on_gpu else _status("VmHWM")
        return (peak - self._base) / _MIB

    def _now(self) -> int:
        return torch.cuda.memory_allocated() if self._on_gpu else _status("VmRSS")


def _bytes_of(book: Book) -> int:
    """Return what the codebook's own tensors take: its keys, and the entries that stand for the files."""
    artifacts = [entry.artifact for entry in book.entries.values()]
    return book.copy.arena.keys.nbytes + sum(one.keys.nbytes + one.values.nbytes for one in artifacts)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def _alone(function: Callable[..., _Result], *arguments: Any) -> _Result:
    # What an allocator keeps of an earlier measurement would hide what this one needs.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
