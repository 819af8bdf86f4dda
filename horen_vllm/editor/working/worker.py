"""The editor worker: claims edits in batches, makes them and publishes their entries.

Knows the registry's port and the artifact store; does not know SQL, gRPC or the serving engine.
"""

import threading
from collections.abc import Sequence
from typing import Final

import structlog
import torch

from horen_vllm.artifacts.store import ArtifactStore
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit, is_out_of_memory
from horen_vllm.editor.working.books import BookShelf
from horen_vllm.editor.working.lease import LeaseKeeper
from horen_vllm.editor.working.metrics import EditorMetrics
from horen_vllm.editor.working.previewing import PreviewDesk
from horen_vllm.editor.working.progress import BatchProgress
from horen_vllm.editor.working.thresholds import ThresholdKeeper
from horen_vllm.editor.working.work import BatchWork, Tools
from horen_vllm.errors import HorenError, Unavailable
from horen_vllm.registry.audit import acting_as, worker_caller
from horen_vllm.registry.models import Claim
from horen_vllm.registry.ports import Registry

DEFAULT_BATCH: Final = 64
"""Edits that are made together at most, unless the worker is told otherwise."""
_MAX_BACKOFF_S: Final = 5.0


class EditorWorker:
    """Turns the edits of one base model into published entries.

    1. claim the oldest edits of a codebook with this model's fingerprint, and keep their leases;
    2. make them in order, as if each were made alone (`editing.EditBatch`), and publish their entries in groups, or
       close an edit as already there, or as failed with its reason;
    3. if the codebook moved meanwhile, decide what is still open against the new revision, without training again;
    4. what cannot be made together, for lack of memory or by a defect, is made in parts: the first edit alone, then
       the two halves of the rest.

    Parameters
    ----------
    registry
        Where edits are claimed and published.
    artifacts
        Where entries are stored.
    editable
        The base model.
    worker_id
        Name of this worker in claims.
    memory
        Bounds what is computed at once; what it has learned is kept for the next batch.
    batch
        Most edits of a batch.
    metrics
        Counts edits and time.
    lease_s
        Seconds that a claim outlives a worker that died.
    poll_s
        Seconds between looks at an empty queue.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        artifacts: ArtifactStore,
        editable: EditableModel,
        worker_id: str,
        memory: MemoryLimit,
        batch: int = DEFAULT_BATCH,
        metrics: EditorMetrics | None = None,
        lease_s: float = 60.0,
        poll_s: float = 0.1,
    ) -> None:
        shelf = BookShelf(registry, artifacts, editable, memory)
        self._tools = Tools(registry=registry, artifacts=artifacts, editable=editable, shelf=shelf, memory=memory)
        self._worker_id = worker_id
        self._batch = batch
        self._metrics = metrics or EditorMetrics()
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._log = structlog.get_logger().bind(worker=worker_id)
        self._previews = PreviewDesk(self._tools, worker_id)
        self._thresholds = ThresholdKeeper(self._tools)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; a batch in hand is finished first.

        A registry that does not answer, or a disk that is full, is tried again after a growing pause of at most 5 s.

        Raises
        ------
        torch.AcceleratorError
            When the device is of no use any more; so is the process, and the claims run out.
        """
        pause_s = self._poll_s
        while not stop.is_set():
            try:
                worked = self.run_once()
            except Unavailable as exc:
                self._log.warning("worker waits", code=exc.code, reason=exc.message, pause_s=pause_s)
                stop.wait(pause_s)
                pause_s = min(2 * pause_s, _MAX_BACKOFF_S)
                continue
            pause_s = self._poll_s
            if not worked:
                stop.wait(self._poll_s)

    def run_once(self) -> bool:
        """Do what is next, and take one batch of edits to its end; return False when there was nothing to do.

        Previews come first: somebody waits for each. So none waits longer than a batch takes.

        Raises
        ------
        Unavailable
            When the registry does not answer, or entries cannot be read or stored; the edits are handed out again when
            their leases end, and where the registry can be told so the attempt does not count.
        torch.AcceleratorError
            As `run`.
        """
        with acting_as(worker_caller(self._worker_id)):
            answered = self._previews.answer_one()
            settled = self._thresholds.settle_one()
            return self._work_on_a_batch() or answered or settled

    def _work_on_a_batch(self) -> bool:
        registry, fingerprint = self._tools.registry, self._tools.editable.fingerprint
        claims = registry.claim(self._worker_id, lease_s=self._lease_s, fingerprint=fingerprint, limit=self._batch)
        if not claims:
            return False
        name = claims[0].edit.codebook
        progress = BatchProgress(self._log.bind(codebook=str(name)), self._metrics, len(claims))
        with progress, LeaseKeeper(registry, claims, lease_s=self._lease_s) as lease:
            try:
                self._finish(claims, lease, progress)
            except Unavailable:
                self._give_back([claim for claim in claims if claim in lease])
                raise
            progress.lost(lease.lost)
        return True

    def _give_back(self, claims: Sequence[Claim]) -> None:
        try:
            self._tools.registry.give_back(claims)
        except HorenError as exc:
            # The attempt counts, then: it may be the registry itself that does not answer.
            self._log.warning("edits not given back", edits=len(claims), code=exc.code)

    def _finish(self, claims: Sequence[Claim], lease: LeaseKeeper, progress: BatchProgress) -> None:
        waiting = [tuple(claims)]
        while waiting:
            held = [claim for claim in waiting.pop() if claim in lease]
            if held:
                waiting += reversed(self._try(held, lease, progress))

    def _try(self, claims: Sequence[Claim], lease: LeaseKeeper, progress: BatchProgress) -> list[tuple[Claim, ...]]:
        """Work on some claims together; return what is left of them, in the parts that it is to be tried in."""
        work = BatchWork(self._tools, claims, lease, progress)
        try:
            work.run()
        except Exception as exc:
            # It may be ahead of the registry, with entries that were never published.
            self._tools.shelf.drop(claims[0].edit.codebook)
            if isinstance(exc, Unavailable) or _device_lost(exc):
                raise
            return self._divide(work, exc)
        finally:
            self._metrics.memory(self._tools.memory.limit_bytes)
        return []

    def _divide(self, work: BatchWork, exc: Exception) -> list[tuple[Claim, ...]]:
        left, code, reason = work.open, *_reason(exc)
        if code == "internal_error":
            self._log.exception("edits raised", edits=[claim.edit.edit_id for claim in left])
        if len(left) == 1 or code not in {"internal_error", "out_of_memory"}:
            work.fail_open(code, reason)
            return []
        self._log.warning("batch is made in parts", edits=len(left), code=code)
        middle = (len(left) + 1) // 2
        return [left[:1], left[1:middle], left[middle:]]


def _device_lost(exc: Exception) -> bool:
    """Whether every later call to the device would fail, too, whatever edit it is for."""
    return isinstance(exc, torch.AcceleratorError) and "out of memory" not in str(exc)


def _reason(exc: Exception) -> tuple[str, str]:
    if isinstance(exc, HorenError):
        return exc.code, exc.message
    if is_out_of_memory(exc):
        return "out_of_memory", "the edit does not fit into memory, not even alone."
    return "internal_error", f"the editor met an unexpected {type(exc).__name__}; its log has the details."
