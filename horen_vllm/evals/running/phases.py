"""Asks one part of a run after another: what is answered is scored and kept, what is not is noted."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from horen_vllm.errors import FailedPrecondition
from horen_vllm.evals.asking.answerer import Answerer
from horen_vllm.evals.asking.progress import Unit
from horen_vllm.evals.asking.running import Asked, Refusal, Watcher, answer_all
from horen_vllm.evals.asking.store import RecordStore
from horen_vllm.evals.records import Answer, Question, Record
from horen_vllm.evals.reporting.run_info import PhaseTime
from horen_vllm.evals.running.journal import Journal
from horen_vllm.evals.running.judge import Judge

ASK: Final = "ask"


class Display(Watcher, Protocol):
    """Who shows how far the run is."""

    def part(self, title: str, unit: Unit) -> None:
        """Say what comes next."""
        ...

    def whole(self, unit: Unit, total: int, done: int) -> None:
        """Say how much the whole run has of a unit, and how much of it is done with."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One arm in one state of its codebook.

    Attributes
    ----------
    when
        That state in words, such as ``after 100 edits``.
    edits
        Position in the stream to the edit that should answer for it.
    revision
        Revision of the codebook that must answer; None where there is none, or it is not known.
    """

    arm: str
    checkpoint: int
    when: str
    edits: Mapping[int, str] = field(default_factory=dict)
    revision: int | None = None


class Asker:
    """Asks the questions of a run.

    Parameters
    ----------
    concurrency
        Questions in flight.
    """

    def __init__(
        self,
        answerer: Answerer,
        store: RecordStore,
        journal: Journal,
        judge: Judge,
        *,
        concurrency: int,
        display: Display | None,
    ) -> None:
        self._answerer = answerer
        self._store = store
        self._journal = journal
        self._judge = judge
        self._concurrency = concurrency
        self._display = display

    def left(self, questions: Sequence[Question]) -> int:
        """Return how many of the questions have no answer yet."""
        return sum(question.question_id not in self._store for question in questions)

    def ask(self, phase: Phase, questions: Sequence[Question]) -> None:
        """Ask what has no answer yet, and note what gets none.

        Raises
        ------
        FailedPrecondition
            ``revision_differs``: an answer came from another revision than the phase's. It is not kept.
        HorenError
            As `answer_all`.
        """
        if self._display is not None:
            self._display.part(f"{phase.arm}: questions {phase.when}", Unit.QUESTIONS)

        def recorded(question: Question, answer: Answer) -> Record:
            check_revision(phase, question, answer)
            return self._judge.record(question, answer, phase.edits)

        began = time.monotonic()
        asked = answer_all(
            self._answerer, questions, self._store, recorded, concurrency=self._concurrency, watcher=self._display
        )
        if asked.answered:
            seconds = time.monotonic() - began
            self._journal.took(
                PhaseTime(name=ASK, arm=phase.arm, checkpoint=phase.checkpoint, seconds=seconds, count=asked.answered)
            )
        self._journal.tell(f"Questions to {phase.arm} {phase.when}: ", _without_answer(asked))

    def missing(self, phase: Phase, questions: Sequence[Question]) -> None:
        """Note what has no answer and cannot be asked any more, since the codebook is past it."""
        left = self.left(questions)
        if left:
            self._journal.note(
                f"{left} questions to {phase.arm} {phase.when} have no answer and count nowhere: they got none then, "
                f"or their answers were lost with the machine, and the codebook has moved on since."
            )


def check_revision(phase: Phase, question: Question, answer: Answer) -> None:
    """Refuse an answer of another revision than the phase's.

    Raises
    ------
    FailedPrecondition
        ``revision_differs``.
    """
    if phase.revision is None or answer.revision == phase.revision:
        return
    message = (
        f"revision {answer.revision} of {question.model} answered {question.question_id}, and the question is about "
        f"revision {phase.revision}: somebody has changed the codebook. The answer is not kept."
    )
    raise FailedPrecondition(message, code="revision_differs")


def _without_answer(asked: Asked) -> str | None:
    """Return what a note says of the questions that got no answer; None when all did."""
    parts = [
        f"{len(found)} {what}; the first: {found[0].question.question_id}: {found[0].message}"
        for what, found in _kinds(asked)
        if found
    ]
    return f"{' '.join(parts)} They count nowhere." if parts else None


def _kinds(asked: Asked) -> tuple[tuple[str, Sequence[Refusal]], ...]:
    return (
        ("were refused by the server", asked.refused),
        ("got no answer, while the server answered others", asked.unanswered),
    )
