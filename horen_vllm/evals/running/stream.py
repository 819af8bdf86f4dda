"""One codebook's stream of edits: submitted up to a checkpoint, followed until all are served or have failed."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from horen_vllm.errors import FailedPrecondition, Unavailable
from horen_vllm.evals.reporting.run_info import CodebookState, EditOutcome
from horen_vllm.evals.running.control import BookState, EditControl, EditState, EditStatus, Submission
from horen_vllm.evals.running.outages import Outages

LONGEST_OUTAGE_S: Final = 120.0
"""Longest time that a control plane is waited for, in seconds, as long as a server is that questions go to."""
SUPERSEDED: Final = "superseded"
"""Failure of an edit that a later one of the stream took the place of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What the stream says of one case."""

    prompt: str
    target: str
    subject: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """What became of the edits since the last checkpoint."""

    outcomes: tuple[EditOutcome, ...]
    """In the order of the stream."""
    state: CodebookState
    resumed: int
    """Edits that an earlier start of the run had submitted; the state's seconds know nothing of those."""


class EditStream:
    """The edits of a run on their way into one codebook.

    Parameters
    ----------
    control
        The control plane.
    book
        Name of a codebook that holds edits of this stream only.
    edits
        The whole stream.
    ids
        What request ids begin with: the same in every start of a run, another one in every run.
    patience_s
        Longest time without any progress, in seconds; a control plane that is away is waited for, too, but not
        longer than `LONGEST_OUTAGE_S`.
    poll_s
        Time between two looks, in seconds.
    on_progress
        Called with edits that came to an end and edits of this advance.
    """

    def __init__(
        self,
        control: EditControl,
        book: str,
        edits: Sequence[Edit],
        *,
        ids: str,
        patience_s: float = 900.0,
        poll_s: float = 0.5,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._control = control
        self._book = book
        self._edits = edits
        self._ids = ids
        self._patience_s = patience_s
        self._poll_s = poll_s
        self._on_progress = on_progress
        self._outages = Outages(min(patience_s, LONGEST_OUTAGE_S), poll_s)

    def advance(self, known: Sequence[EditOutcome], stop: int, *, others: Collection[str] = ()) -> Advance:
        """Submit the edits behind `known` up to number `stop`, and return what became of them.

        Edits that an earlier start of the run submitted are found by their place in the codebook and by their request
        ids, and not stored twice.

        Parameters
        ----------
        others
            Edits that the codebook holds besides those of this stream.

        Raises
        ------
        FailedPrecondition
            ``foreign_edits``: the codebook holds edits that are not of this stream; what a server that cannot take
            the codebook says.
        Unavailable
            ``edits_stalled``: nothing moved for `patience_s` seconds.
        """
        start = len(known)
        found = self._found(known, stop, others)
        resumed, began = len(found), time.monotonic()
        refused: dict[int, str] = {}
        self._outages.outlast(
            lambda: self._submit(range(start, stop), found, refused), lambda: len(found) + len(refused)
        )
        settled = self.settle(stop - start)
        seconds = time.monotonic() - began
        wanted = set(found.values())
        states = {it.edit_id: it for it in self._stored() if it.edit_id in wanted} if wanted else {}
        outcomes = (_outcome(it, states.get(found.get(it, "")), refused.get(it)) for it in range(start, stop))
        return Advance(outcomes=tuple(outcomes), state=state_of(settled, stop, seconds, resumed), resumed=resumed)

    def settle(self, total: int = 0) -> BookState:
        """Wait until no edit is pending and every live server has the current revision; return the codebook.

        Parameters
        ----------
        total
            Edits that are waited for, for the display.

        Raises
        ------
        FailedPrecondition, Unavailable
            As `advance`.
        """
        seen, since = None, time.monotonic()
        first: int | None = None
        while True:
            pending = self._outages.outlast(lambda: self._control.oldest_pending(self._book))
            first = pending if first is None else first
            book = self.current()
            if pending is None and book.served:
                self._on_progress(total, total)
                return book
            if book.refusal is not None:
                code, sentence = book.refusal
                raise FailedPrecondition(f"a server does not take codebook {self._book}: {sentence}", code=code)
            if pending is not None and first is not None:
                self._on_progress(min(pending - first, total), total)
            if (pending, book.revision) != seen:
                seen, since = (pending, book.revision), time.monotonic()
            elif time.monotonic() - since > self._patience_s:
                what = "no server has its edits" if pending is None else f"edit {pending} is still not published"
                message = f"codebook {self._book} has not moved for {self._patience_s:g} s: {what}."
                raise Unavailable(message, code="edits_stalled")
            time.sleep(self._poll_s)

    def current(self) -> BookState:
        """Return the codebook as it is now; errors as `advance`."""
        return self._outages.outlast(self._require)

    def _found(self, known: Sequence[EditOutcome], stop: int, others: Collection[str]) -> dict[int, str]:
        """Return position and edit id of what stands behind `known` in the codebook already."""
        old = {outcome.edit_id for outcome in known} | set(others)
        places: dict[tuple[str, str], deque[int]] = defaultdict(deque)
        for place, edit in enumerate(self._edits[len(known) : stop], start=len(known)):
            places[edit.prompt, edit.target].append(place)
        found: dict[int, str] = {}
        for state in self._stored():
            if state.edit_id in old:
                continue
            # Nearly in the order of the stream: one that was put off by a quota stands behind later ones.
            left = places[state.prompt, state.target]
            if not left:
                message = (
                    f"codebook {self._book} holds edits that this run has not submitted, or has not come to yet "
                    f"({state.edit_id}): start the run again in another folder."
                )
                raise FailedPrecondition(message, code="foreign_edits")
            found[left.popleft()] = state.edit_id
        return found

    def _submit(self, positions: range, found: dict[int, str], refused: dict[int, str]) -> None:
        """Submit what is neither `found` nor `refused` yet, and say there what becomes of it."""
        left = [it for it in positions if it not in found and it not in refused]
        submissions = (
            Submission(
                prompt=self._edits[it].prompt,
                target=self._edits[it].target,
                subject=self._edits[it].subject,
                request_id=f"{self._ids}-{it}",
            )
            for it in left
        )
        for said in self._control.submit(self._book, submissions) if left else ():
            if said.edit_id is None:
                refused[left[said.index]] = said.code or "refused"
            else:
                found[left[said.index]] = said.edit_id

    def _stored(self) -> list[EditState]:
        return self._outages.outlast(lambda: list(self._control.edits(self._book)))

    def _require(self) -> BookState:
        book = self._control.find(self._book)
        if book is None:
            raise FailedPrecondition(f"codebook {self._book} is gone.", code="codebook_gone")
        return book


def state_of(book: BookState, checkpoint: int, seconds: float, resumed: int = 0) -> CodebookState:
    """Return a codebook as the run's description has it."""
    return CodebookState(
        checkpoint=checkpoint,
        revision=book.revision,
        entries=book.entries,
        threshold=book.threshold,
        anchored_threshold=book.anchored_threshold,
        submit_seconds=seconds,
        resumed=resumed,
    )


def _outcome(position: int, state: EditState | None, refused: str | None) -> EditOutcome:
    if state is None:
        return EditOutcome(position=position, failure=refused or "lost")
    failure = None
    if state.status is EditStatus.FAILED:
        failure = state.code or "failed"
    elif state.status is EditStatus.INACTIVE:
        failure = SUPERSEDED
    return EditOutcome(
        position=position,
        edit_id=state.edit_id,
        answered_by=state.same_as,
        failure=failure,
        seconds=state.seconds,
        sequence=state.sequence,
    )
