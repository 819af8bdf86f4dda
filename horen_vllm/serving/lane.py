"""One codebook's way from revision to revision, as the sync agent keeps it; no I/O."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from horen_vllm.control.messages import DeltaView
from horen_vllm.errors import HorenError
from horen_vllm.ids import CodebookName
from horen_vllm.serving.packing import PackedUpdate
from horen_vllm.serving.state import CodebookState, ProbeFailure, Refusal

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
_RELOADED: Final = frozenset({"revision_gap", "space_missing"})
"""Refusals of a change that the whole codebook may not meet."""


@dataclass(slots=True)
class Backoff:
    """When to try again: after 1, 2, 4 ... at most 60 seconds."""

    failures: int = 0
    due_at: float = 0.0

    def failed(self, now: float) -> None:
        """Note a failure at `now`, in monotonic seconds."""
        self.due_at = now + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**self.failures)
        # Beyond this the pause no longer grows.
        self.failures = min(self.failures + 1, 16)

    def reset(self) -> None:
        """Be due now, with the shortest pause next."""
        self.failures, self.due_at = 0, 0.0


@dataclass(slots=True)
class Lane:
    """What is applied of a codebook, what is on its way, and what has gone wrong."""

    name: CodebookName
    state: CodebookState = field(default_factory=CodebookState)
    queue: deque[DeltaView] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None
    under_way: DeltaView | None = None
    """The update that was taken last; None once it is of another epoch than what is known here."""
    parts: tuple[DeltaView, ...] = ()
    """The updates that it was made of."""
    apart: bool = False
    """Whether the queued updates are taken one by one, since together they were refused."""
    reload: bool = False
    """Whether the next update must replace what the engine has."""
    gone: bool = False
    """Whether the control plane no longer has it, and it is to be dropped."""
    dropped: bool = False
    """Whether the engine has forgotten it since."""
    retry: Backoff = field(default_factory=Backoff)
    probe_retry: Backoff = field(default_factory=Backoff)

    @classmethod
    def resumed(cls, name: CodebookName, state: CodebookState | None, applied: int) -> "Lane":
        """Return the lane of a codebook that an earlier agent of this engine has brought to revision `applied`.

        What its `state` does not fully tell of is loaded anew; until then it is served as it was. If the state tells of
        nothing that is applied, the engine may have something of another epoch, which is not served.
        """
        if state is None or not state.applied:
            lane = cls(name, state or CodebookState())
            lane.forget()
            return lane
        whole = state.applied == state.probed == applied
        latest = max(state.latest, applied)
        return cls(name, replace(state, applied=applied, latest=latest), reload=not whole)

    def forget(self) -> None:
        """Note that the registry is of another epoch: nothing is known, and nothing is answered before it is reloaded.

        What the engine is doing still ends before anything else begins, and says nothing any more.
        """
        self.queue.clear()
        self.under_way = None
        self.reload = True
        self.retry.reset()
        self.probe_retry.reset()
        # Requests are held back by what is owed, not by taking the codebook away: they are told to come again.
        self.state = replace(self.state, applied=0, probed=0, latest=0, owed=1, refused=None, failed=())

    @property
    def busy(self) -> bool:
        """Whether something of it is running."""
        return self.task is not None and not self.task.done()

    def known(self, now: float) -> int:
        """Return the revision after which the control plane is to tell of changes.

        While an update is on its way, or waits for its next attempt, only a newer one is news.
        """
        if self.busy or now < self.retry.due_at:
            return self.state.latest
        return 0 if self.reload else self.state.applied

    def heard(self, delta: DeltaView) -> bool:
        """Take note of an update; return whether it can be tried now, on top of what is applied or queued."""
        waiting = bool(self.state.refused) and delta.base == self.state.latest != self.state.applied
        # Of a codebook that was deleted and made anew, revisions start again.
        self.state = replace(self.state, latest=delta.revision, entries=delta.codebook.entry_count)
        self.gone = self.dropped = False
        if waiting and not self.busy:
            # It follows one that was refused, so it has no base here; without that one it may well fit.
            self.retry.reset()
            return False
        self.queue.append(delta)
        return True

    def next_update(self) -> DeltaView | None:
        """Take the next update that starts from what is applied; what does not is forgotten and will be sent again.

        Those that follow it come with it: an engine that is slower than its editors would never catch up one by one.
        """
        while self.queue:
            delta = self.queue.popleft()
            if delta.base in {0, self.state.applied}:
                self.under_way = self._with_followers(delta)
                return self.under_way
        self.apart = False
        return None

    def _with_followers(self, delta: DeltaView) -> DeltaView:
        parts = [delta]
        while self.queue and not self.apart and (both := delta.followed_by(self.queue[0])) is not None:
            delta = both
            parts.append(self.queue.popleft())
        self.parts = tuple(parts)
        return delta

    def split(self, delta: DeltaView) -> bool:
        """Queue an update that was refused again as the several that it was made of; return whether it was.

        So one that cannot be served holds back no earlier one.
        """
        if delta is not self.under_way or len(self.parts) < 2:
            return False
        self.queue.extendleft(reversed(self.parts))
        self.apart = True
        return True

    def flipped(self, delta: DeltaView, packed: PackedUpdate) -> bool:
        """Note that every worker serves `delta`; return False if it is of another epoch, and so to be replaced."""
        if delta is not self.under_way:
            return False
        whole = delta.base == 0
        asked = {probe.edit_id for probe in packed.probes}
        there = {str(entry.edit_id) for entry in delta.added} - asked
        removed = {str(edit) for edit in delta.removed}
        # Of a whole codebook only a sample is asked: what is known to fail must not pass by not being in it.
        kept = (
            it for it in self.state.failed if (it.probe.edit_id in there if whole else it.probe.edit_id not in removed)
        )
        self.state = replace(
            self.state,
            applied=delta.revision,
            # All of it was brought anew, and has yet to be asked.
            probed=0 if whole else self.state.probed,
            parameters=delta.codebook.parameters,
            without_probe=packed.without_probe,
            refused=None,
            failed=tuple(kept),
        )
        self.reload = False
        self.retry.reset()
        return True

    def refused(self, delta: DeltaView, error: HorenError, now: float) -> None:
        """Note that `delta` is not served; the codebook stays at its revision."""
        if delta is not self.under_way:
            return
        refusal = Refusal(revision=delta.revision, code=error.code, message=error.message)
        self.state = replace(self.state, refused=refusal)
        self.queue.clear()
        if error.code in _RELOADED and not self.reload:
            # The whole codebook may well fit, and brings its routing space: that is asked for at once.
            self.reload = True
            return
        self.retry.failed(now)

    def probed(self, delta: DeltaView, failed: Sequence[ProbeFailure], now: float) -> None:
        """Note the verdict of an update's probes."""
        if delta is not self.under_way:
            return
        self.state = replace(self.state, probed=delta.revision, failed=(*self.state.failed, *failed))
        if failed:
            self.probe_retry.reset()
            self.probe_retry.failed(now)

    def probes_due(self, now: float) -> bool:
        """Return whether probes that failed are to be asked again."""
        return bool(self.state.failed) and now >= self.probe_retry.due_at

    def probed_again(self, asked: Sequence[ProbeFailure], failed: Sequence[ProbeFailure], now: float) -> None:
        """Note which of the probes `asked`, which had failed, still do."""
        if self.state.failed is not asked:
            return
        self.state = replace(self.state, failed=tuple(failed))
        self.probe_retry.failed(now)
