"""Staging: the one thread of a worker that brings revisions into the buffers and takes them out again.

Everything here runs in order: a revision that is released frees its rows before the next update looks for room,
and never while one is being prepared on top of it.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import structlog
import torch

from horen_vllm.errors import FailedPrecondition, HorenError, Internal, NotFound
from horen_vllm.plugin.codebooks import PagedCodebooks, Update
from horen_vllm.plugin.revisions import RevisionView

log = structlog.get_logger(__name__)


class StageState(StrEnum):
    """How far a staged update has come."""

    STAGING = "staging"
    STAGED = "staged"
    FAILED = "failed"


@dataclass(slots=True)
class StagedUpdate:
    """An update on its way into the buffers."""

    base_revision: int
    state: StageState = StageState.STAGING
    view: RevisionView | None = None
    error: HorenError | None = None
    cancelled: bool = False


class Stager:
    """Prepares and releases revisions beside the engine's steps.

    Parameters
    ----------
    codebooks
        Where the revisions go; its `release` is redirected to this thread.
    """

    def __init__(self, codebooks: PagedCodebooks) -> None:
        self._codebooks = codebooks
        self._device = codebooks.store.keys.device
        self._staged: dict[str, StagedUpdate] = {}
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._sequence = 0
        codebooks.release = self._release
        threading.Thread(target=self._run, name="horen-staging", daemon=True).start()

    @property
    def sequence(self) -> int:
        """The last sequence number that was taken."""
        return self._sequence

    @property
    def tickets(self) -> list[str]:
        """The updates that are staged or on their way."""
        return list(self._staged)

    def stage(self, ticket: str, base_revision: int, load: Callable[[], Update]) -> None:
        """Begin to prepare what `load` returns; both run on the staging thread.

        Raises
        ------
        FailedPrecondition
            ``ticket_in_use``.
        """
        if ticket in self._staged:
            raise FailedPrecondition(f"update {ticket!r} is being staged already.", code="ticket_in_use")
        staged = self._staged[ticket] = StagedUpdate(base_revision)
        self._enqueue(lambda: self._prepare(staged, load))

    def staged(self, ticket: str) -> StagedUpdate:
        """Return how far an update has come; NotFound ``unknown_ticket``."""
        staged = self._staged.get(ticket)
        if staged is None:
            raise NotFound(f"no update {ticket!r} is being staged.", code="unknown_ticket")
        return staged

    def flip(self, ticket: str, sequence: int) -> RevisionView:
        """Make a staged update current; between two engine steps, and in no time that depends on its size.

        Raises
        ------
        FailedPrecondition
            ``stale_update``, ``not_staged`` or ``revision_gap``; the update stays staged until it is unstaged.
        """
        staged = self.staged(ticket)
        if staged.state is not StageState.STAGED or staged.view is None:
            raise FailedPrecondition(f"update {ticket!r} is {staged.state}, not staged.", code="not_staged")
        self.take_sequence(sequence)
        self._codebooks.flip(staged.view, staged.base_revision)
        del self._staged[ticket]
        return staged.view

    def unstage(self, ticket: str) -> None:
        """Forget an update and give its rows back; harmless for one that is not known."""
        staged = self._staged.pop(ticket, None)
        if staged is not None:
            staged.cancelled = True
            self._enqueue(lambda: self._discard(staged))

    def take_sequence(self, sequence: int) -> None:
        """Accept the next number of a change; FailedPrecondition ``stale_update`` when it is not greater.

        An agent that has lost its election goes on for a moment with numbers that its successor has passed.
        """
        if sequence <= self._sequence:
            message = f"change {sequence} comes after change {self._sequence}: another agent is in charge."
            raise FailedPrecondition(message, code="stale_update")
        self._sequence = sequence

    def _release(self, view: RevisionView) -> None:
        self._enqueue(lambda: self._codebooks.free(view))

    def _enqueue(self, task: Callable[[], None]) -> None:
        if self._device.type == "cuda":
            # Kernels of earlier steps may still read the rows that this task will write.
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._tasks.put(event.synchronize)
        self._tasks.put(task)

    def _run(self) -> None:
        cuda = self._device.type == "cuda"
        if cuda:
            # A thread starts on device 0, which belongs to another rank.
            torch.cuda.set_device(self._device)
        stream = torch.cuda.Stream(self._device) if cuda else None  # type: ignore[no-untyped-call]
        while True:
            task = self._tasks.get()
            try:
                with torch.inference_mode(), torch.cuda.stream(stream):
                    task()
                if stream is not None:
                    stream.synchronize()
            except Exception:  # the thread must outlive any task
                log.exception("staging task failed")

    def _prepare(self, staged: StagedUpdate, load: Callable[[], Update]) -> None:
        if staged.cancelled:
            return
        try:
            staged.view = self._codebooks.prepare(load())
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
            staged.state = StageState.STAGED
        except HorenError as error:
            staged.error, staged.state = error, StageState.FAILED
        except Exception as exc:
            log.exception("staging failed")
            staged.error = Internal(f"staging failed with {type(exc).__name__}; the worker's log has the details.")
            staged.state = StageState.FAILED

    def _discard(self, staged: StagedUpdate) -> None:
        if staged.view is not None:
            self._codebooks.free(staged.view)
