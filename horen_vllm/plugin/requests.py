"""What a rank remembers of each tagged request, from its first scheduled token until it finishes or aborts."""

from collections.abc import Sequence
from dataclasses import dataclass

from horen_vllm.errors import Internal
from horen_vllm.plugin.codebooks import PagedCodebooks
from horen_vllm.plugin.decisions import Decision, DecisionBatch
from horen_vllm.plugin.revisions import RevisionView
from horen_vllm.plugin.subjects import NO_SUBJECTS, Subjects, subjects_of
from horen_vllm.plugin.tag import RequestTag


@dataclass(slots=True)
class TrackedRequest:
    """A live tagged request.

    Its revision is pinned at admission, the first step that schedules one of its tokens. The decision, once
    made, survives preemption; the slot (its row in the device tables) does not.
    """

    request_id: str
    tag: RequestTag
    prompt_length: int
    window: tuple[int, int]
    """Half-open range of prompt positions that are averaged."""
    view: RevisionView
    subjects: Subjects = NO_SUBJECTS
    """Which anchored entries of its revision compete for it."""
    slot: int | None = None
    decided: tuple[DecisionBatch, int] | None = None
    """Where its decision is found, and in which row; None until the request is routed."""
    in_slot: bool = False
    """Whether the slot's row holds the decision; a resumed request's new slot does not yet."""

    def writes_at(self, position: int) -> bool:
        """Whether a value may be written at `position` or later, as far as the host knows without waiting."""
        if self.decided is None or not self.decided[0].is_read:
            return True
        entry = self.decision().entry
        if entry is None:
            return False
        span = self.view.entries[self.view.edit_ids[entry]].row.span
        return position < self.prompt_length - 1 + span

    def decision(self) -> Decision:
        """Return the decision of a routed request, waiting for the device if it must."""
        assert self.decided is not None
        batch, row = self.decided
        return batch.read()[row]


class RequestTable:
    """All live tagged requests of a rank and their slots.

    Parameters
    ----------
    codebooks
        Where revisions are pinned.
    num_slots
        Most requests that can run at once.
    slack
        By how many positions the runner may overstate what a request has computed (drafts not yet rejected).
    """

    def __init__(self, codebooks: PagedCodebooks, num_slots: int, slack: int = 0) -> None:
        self.slack = slack
        self._codebooks = codebooks
        self._free_slots = list(range(num_slots))
        self._live: dict[str, TrackedRequest] = {}
        self._clean: set[str] = set()
        self._missing: dict[str, str] = {}
        self._num_slots = num_slots
        self.sums_valid = [False] * self.num_sums
        """Whether a sum has been begun by the request that holds its slot now."""

    def __len__(self) -> int:
        """Count the live tagged requests."""
        return len(self._live)

    @property
    def num_sums(self) -> int:
        """Sums that requests may hold: one of each slot's query window, then those of its masked ranges."""
        return self._num_slots * (1 + self._codebooks.subject_ranges)

    def sums_of(self, tracked: TrackedRequest) -> list[int]:
        """Return the numbers of a running request's sums: its window's, then one for each of its masked ranges."""
        assert tracked.slot is not None
        first = self._num_slots + tracked.slot * self._codebooks.subject_ranges
        return [tracked.slot, *range(first, first + len(tracked.subjects.ranges))]

    def admit(
        self, request_id: str, tag: RequestTag, prompt_length: int, prompt_ids: Sequence[int] | None = None
    ) -> TrackedRequest | None:
        """Return the request, pinning the applied revision if this is its first step; None without a codebook.

        `prompt_ids` are read only where the revision reads text.
        """
        if request_id in self._clean:
            return None
        tracked = self._live.get(request_id)
        if tracked is None:
            view = self._codebooks.pin(tag.codebook)
            if view is None:
                # For good: a codebook that arrives later must not enter a request halfway.
                self._clean.add(request_id)
                self._missing[request_id] = tag.codebook
                return None
            window = tag.window(prompt_length)
            tracked = TrackedRequest(request_id, tag, prompt_length, window, view)
            self._live[request_id] = tracked
            if view.needs_text:
                tracked.subjects = self._subjects(tracked, prompt_ids)
        if tracked.slot is None:
            tracked.slot = self._free_slots.pop()
        return tracked

    def _subjects(self, tracked: TrackedRequest, prompt_ids: Sequence[int] | None) -> Subjects:
        if prompt_ids is None or len(prompt_ids) != tracked.prompt_length:
            raise Internal("a request came without the token ids of its prompt, which its codebook reads.")
        text = self._codebooks.texts.of(prompt_ids, tracked.tag.query_span(tracked.prompt_length))
        return subjects_of(text, tracked.window, tracked.view, self._codebooks.subject_ranges)

    def take_missing(self) -> dict[str, str]:
        """Return the requests admitted since the last call whose codebook is not here, and its name."""
        missing, self._missing = self._missing, {}
        return missing

    def is_undecided(self, request_id: str) -> bool:
        """Whether a tagged request's prompt is still to be pooled and routed; also for one not yet admitted."""
        tracked = self._live.get(request_id)
        return request_id not in self._clean if tracked is None else tracked.decided is None

    def preempt(self, request_id: str) -> None:
        """Take the slot of a request that will run again later; its pin and decision stay."""
        tracked = self._live.get(request_id)
        if tracked is not None and tracked.slot is not None:
            self.forget_sums(tracked)
            self._free_slots.append(tracked.slot)
            tracked.slot = None
            tracked.in_slot = False

    def forget_sums(self, tracked: TrackedRequest) -> None:
        """Note that a running request's sums are of no more use."""
        for row in self.sums_of(tracked):
            self.sums_valid[row] = False

    def finish(self, request_id: str) -> None:
        """Forget a request that finished or was aborted, and give its pin back."""
        self.preempt(request_id)
        self._clean.discard(request_id)
        tracked = self._live.pop(request_id, None)
        if tracked is not None:
            self._codebooks.unpin(tracked.view)
