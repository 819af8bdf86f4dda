"""Prometheus metrics of one editor worker: what became of edits, and where the time goes.

No label names a tenant, a codebook or an edit.
"""

from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Phase(StrEnum):
    """What a worker spends its time on."""

    PREPARE = "prepare"
    """The clean pass of all prompts."""
    LOAD = "load"
    """Bringing its copy of the codebook up to date."""
    TRAIN = "train"
    """Training values, all of a batch together."""
    MAKE = "make"
    """Admitting and verifying edits, one after the other."""
    PUBLISH = "publish"
    """Publishing entries, and closing the other edits."""


class EditorMetrics:
    """All ``horen_editor_*`` metrics of a worker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._edits = Counter(
            "horen_editor_edits", "Edits that this worker brought to an end.", ["outcome"], registry=registry
        )
        self._failures = Counter("horen_editor_failures", "Edits that failed.", ["code"], registry=registry)
        self._seconds = Counter("horen_editor_phase_seconds", "Time spent.", ["phase"], registry=registry)
        self._batch = Histogram(
            "horen_editor_batch_edits", "Edits claimed at once.", buckets=_BATCH_SIZES, registry=registry
        )
        self._in_hand = Gauge("horen_editor_edits_in_hand", "Edits claimed and not closed.", registry=registry)
        self._training = Gauge("horen_editor_edits_training", "Edits whose values are trained.", registry=registry)
        self._memory = Gauge("horen_editor_memory_limit_bytes", "What a chunk of rows may take.", registry=registry)
        for phase in Phase:
            self._seconds.labels(phase)

    def claimed(self, edits: int) -> None:
        """Note a batch that was claimed."""
        self._batch.observe(edits)

    def in_hand(self, edits: int) -> None:
        """Note how many claimed edits are not closed yet."""
        self._in_hand.set(edits)

    def training(self, edits: int) -> None:
        """Note how many edits are still trained."""
        self._training.set(edits)

    def closed(self, outcome: str, edits: int = 1) -> None:
        """Count edits that came to an end in the same way."""
        self._edits.labels(outcome).inc(edits)

    def failed(self, code: str) -> None:
        """Count the reason of a failed edit."""
        self._failures.labels(code).inc()

    def spent(self, phase: Phase, seconds: float) -> None:
        """Add time that a phase took."""
        self._seconds.labels(phase).inc(seconds)

    def memory(self, limit_bytes: int) -> None:
        """Note the memory limit as it is now."""
        self._memory.set(limit_bytes)
