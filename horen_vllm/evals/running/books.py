"""The codebooks of a run: made, filled up to a checkpoint, superseded in part, emptied again."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from horen_vllm.core.anchors import MAX_WORDS, AnchorTable
from horen_vllm.core.words import plain_words
from horen_vllm.errors import FailedPrecondition
from horen_vllm.evals.asking.answerer import Answerer
from horen_vllm.evals.asking.running import Watcher
from horen_vllm.evals.questions.forgetting import Superseding
from horen_vllm.evals.records import Case
from horen_vllm.evals.reporting.run_info import ArmInfo, RunInfo, resumed_note
from horen_vllm.evals.running.control import EditControl
from horen_vllm.evals.running.journal import Journal
from horen_vllm.evals.running.stream import Edit, EditStream

EMPTY_REVISION: Final = 1
_SERVED_WITHIN_S: Final = 30.0


class Books:
    """Codebooks at one control plane.

    Parameters
    ----------
    cases
        The stream of edits.
    thresholds
        Preset to cosine c, where it is not to be the published or calibrated one.
    patience_s, poll_s
        As of `EditStream`.
    memory
        Returns the bytes that all codebooks take in the server, once it shows this one with so many entries; None where
        that cannot be known.
    """

    def __init__(
        self,
        control: EditControl,
        cases: Sequence[Case],
        thresholds: dict[str, float],
        *,
        patience_s: float = 900.0,
        poll_s: float = 0.5,
        memory: Callable[[str, int], int | None] = lambda _book, _entries: None,
    ) -> None:
        self._control = control
        self._edits = [edit_of(case) for case in cases]
        self._thresholds = thresholds
        self._patience_s = patience_s
        self._poll_s = poll_s
        self._memory = memory

    @property
    def without_subject(self) -> int:
        """Edits that are submitted without a subject: the file names none, or it does not stand in the prompt."""
        return sum(edit.subject is None for edit in self._edits)

    def advance(self, journal: Journal, arm: str, checkpoint: int, watcher: Watcher | None) -> None:
        """Make the codebook if it is not there, and bring it to a checkpoint; what became of it is in `journal`.

        Raises
        ------
        AlreadyExists
            ``codebook_exists``: another run has it.
        HorenError
            As `EditStream.advance`, and of a preset that cannot be had.
        """
        self._make(journal, journal.arm(arm))
        info = journal.arm(arm)
        before = self._memory(_book(info), info.states[-1].entries if info.states else 0)
        stream = self._stream(journal, info, self._edits, "edit", watcher)
        advanced = stream.advance(info.edits, checkpoint)
        after = self._memory(_book(info), advanced.state.entries)
        taken = _taken(journal.info, info, None if advanced.resumed else before, after)
        state = advanced.state.model_copy(update={"memory_bytes": taken})
        if advanced.resumed:
            journal.note(
                f"{resumed_note(arm, checkpoint)}: how long they took is not known, since an earlier start of the run "
                f"submitted {advanced.resumed} of them."
            )
        if taken is None:
            journal.note(f"What the codebook of {arm} takes in the server after {checkpoint} edits is not known.")
        journal.change(arm, edits=(*info.edits, *advanced.outcomes), states=(*info.states, state))

    def supersede(self, journal: Journal, arm: str, supersedings: Sequence[Superseding]) -> ArmInfo:
        """Submit the edits that take the place of others, once, and return the arm with what became of them."""
        info = journal.arm(arm)
        if not info.superseding:
            edits = [edit_of(one.case, one.target) for one in supersedings]
            stream = self._stream(journal, info, edits, "supersede", None)
            known = [outcome.edit_id for outcome in info.edits if outcome.edit_id is not None]
            advanced = stream.advance((), len(edits), others=known)
            moved = (
                outcome.model_copy(update={"position": one.position})
                for one, outcome in zip(supersedings, advanced.outcomes, strict=True)
            )
            info = journal.change(arm, superseding=tuple(moved), superseded_revision=advanced.state.revision)
        return info

    def empty(self, journal: Journal, arm: str) -> None:
        """Roll the codebook back to the empty revision, and wait until that is served."""
        info = journal.arm(arm)
        self._control.rollback(_book(info), EMPTY_REVISION, request_id=_request_id(journal, info, "empty"))
        book = self._stream(journal, info, (), "empty", None).settle()
        journal.change(arm, emptied_revision=book.revision)

    def revision(self, journal: Journal, arm: str, wanted: int) -> int:
        """Return the codebook's revision now: `wanted`, or a later one that is the same.

        Raises
        ------
        FailedPrecondition
            ``revision_differs``: somebody has changed the codebook since; ``codebook_gone``.
        """
        info = journal.arm(arm)
        book = self._stream(journal, info, (), "look", None).current()
        if book.revision != wanted and not self._control.same(_book(info), wanted, book.revision):
            message = (
                f"codebook {_book(info)} is at revision {book.revision}, and what is to be asked is about revision "
                f"{wanted}: somebody has changed it. After `horen codebook rollback {_book(info)} {wanted}` the same "
                f"command goes on."
            )
            raise FailedPrecondition(message, code="revision_differs")
        return book.revision

    def check_served(self, info: ArmInfo, answerer: Answerer) -> None:
        """Wait until the server answers for the codebook's model name.

        Raises
        ------
        FailedPrecondition
            ``codebook_not_served``.
        """
        deadline = time.monotonic() + _SERVED_WITHIN_S
        while info.model not in answerer.model_names():
            if time.monotonic() > deadline:
                message = (
                    f"the server offers no model {info.model}: either it runs without the plugin, or it belongs to "
                    f"another control plane than the one that took the edits."
                )
                raise FailedPrecondition(message, code="codebook_not_served")
            time.sleep(self._poll_s)

    def _make(self, journal: Journal, info: ArmInfo) -> None:
        if info.preset is None or info.parameters:
            return
        if not any(arm.parameters for arm in journal.info.arms):
            journal.set_memory_baseline(self._memory(_book(info), 0))
        threshold = self._thresholds.get(info.preset)
        request_id = _request_id(journal, info, "create")
        made = self._control.create(_book(info), info.preset, threshold, request_id=request_id)
        journal.change(info.name, parameters=dict(made.parameters))

    def _stream(
        self, journal: Journal, info: ArmInfo, edits: Sequence[Edit], what: str, watcher: Watcher | None
    ) -> EditStream:
        return EditStream(
            self._control,
            _book(info),
            edits,
            ids=_request_id(journal, info, what),
            patience_s=self._patience_s,
            poll_s=self._poll_s,
            on_progress=_Steps(watcher) if watcher is not None else _nothing,
        )


class _Steps:
    """Tells a watcher what it wants to know of a count that grows."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._shown: int | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._shown is None:
            self._watcher.begin(total, 0)
            self._shown = 0
        for _ in range(done - self._shown):
            self._watcher.advance()
        self._shown = max(self._shown, done)


def edit_of(case: Case, target: str | None = None) -> Edit:
    """Return the edit of a case, with another target if given; with its subject where that stands in the prompt."""
    words = plain_words(case.subject or "")
    named = 1 <= len(words) <= MAX_WORDS and bool(AnchorTable({0: [words]}).find(plain_words(case.prompt)))
    return Edit(prompt=case.prompt, target=target or case.target, subject=case.subject if named else None)


def _taken(run: RunInfo, info: ArmInfo, before: int | None, after: int | None) -> int | None:
    """Return what a codebook takes; None where that cannot be known.

    Parameters
    ----------
    before, after
        What all codebooks of the server took together before it grew, and take since; `before` is None where an
        earlier start of the run made it grow, too.
    """
    if after is None:
        return None
    others = [_last_taken(arm) for arm in run.arms if arm.name != info.name]
    known = [taken for taken in others if taken is not None]
    if run.memory_baseline is not None and len(known) == len(others):
        return after - run.memory_baseline - sum(known)
    earlier = _last_taken(info)
    return None if earlier is None or before is None else earlier + after - before


def _last_taken(arm: ArmInfo) -> int | None:
    return arm.states[-1].memory_bytes if arm.states else 0


def _request_id(journal: Journal, info: ArmInfo, what: str) -> str:
    # The same in every start of a run; another run of the same name must not take its codebook over.
    return f"{_book(info)}-{journal.info.started_at.timestamp():.6f}-{what}"


def _book(info: ArmInfo) -> str:
    if info.codebook is None:
        raise ValueError(f"arm {info.name} has no codebook")
    return info.codebook


def _nothing(_done: int, _total: int) -> None:
    pass
