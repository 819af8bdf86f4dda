"""How a batch of edits gets on, told to the log and to the metrics.

The log names codebooks and edits; reasons may quote a tenant's prompt, so they go to the registry only.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

from horen_vllm.editor.working.metrics import EditorMetrics, Phase

_EVERY_S: Final = 5.0
"""Seconds between two lines about training."""
_FAILED: Final = "failed"
_LOST: Final = "lost"


class BatchProgress:
    """Follows the edits that were claimed together, inside a ``with`` block.

    Parameters
    ----------
    log
        A structlog logger that names the codebook.
    metrics
        The worker's metrics.
    edits
        Number of edits.
    """

    def __init__(self, log: Any, metrics: EditorMetrics, edits: int) -> None:
        self._log = log
        self._metrics = metrics
        self._edits = edits
        self._outcomes: Counter[str] = Counter()
        self._started = self._told = time.monotonic()

    def __enter__(self) -> Self:
        """Tell that the batch was claimed."""
        self._metrics.claimed(self._edits)
        self._metrics.in_hand(self._edits)
        self._log.info("batch claimed", edits=self._edits)
        return self

    def __exit__(self, *_exc: object) -> None:
        """Tell what became of it."""
        seconds = time.monotonic() - self._started
        closed = self._outcomes.total()
        self._metrics.in_hand(0)
        self._metrics.training(0)
        self._log.info(
            "batch done",
            **self._outcomes,
            given_up=self._edits - closed,
            seconds=round(seconds, 2),
            edits_per_second=round(closed / max(seconds, 1e-9), 1),
        )

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Count the time inside a ``with`` block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._metrics.spent(phase, time.monotonic() - started)

    def training(self, steps: int, left: int) -> None:
        """Tell that so many edits are still trained after `steps` steps (`train.Progress`)."""
        self._metrics.training(left)
        now = time.monotonic()
        if now >= self._told + _EVERY_S:
            self._told = now
            self._log.info("training", edits=self._edits, still_training=left, steps=steps)

    def closed(self, outcomes: Iterable[str]) -> None:
        """Count edits that were published or were there already, each by its kind."""
        for outcome in outcomes:
            self._close(outcome)

    def failed(self, edit_id: str, code: str) -> None:
        """Count an edit that was closed as failed."""
        self._metrics.failed(code)
        self._close(_FAILED)
        self._log.info("edit failed", edit_id=edit_id, code=code)

    def lost(self, edits: Iterable[str], code: str = "claim_lost") -> None:
        """Count edits that are not this worker's to close any more."""
        for edit_id in edits:
            self._close(_LOST)
            self._log.info("edit dropped", edit_id=edit_id, code=code)

    def _close(self, outcome: str) -> None:
        self._outcomes[outcome] += 1
        self._metrics.closed(outcome)
        self._metrics.in_hand(self._edits - self._outcomes.total())
