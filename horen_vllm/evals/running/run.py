"""A whole run: base model first, then every arm at every checkpoint, then what supersedes and what is rolled back."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

from horen_vllm.evals.asking.answerer import Answerer
from horen_vllm.evals.asking.running import Watcher, answer_all
from horen_vllm.evals.asking.store import RecordStore, read_records
from horen_vllm.evals.questions.drafts import BASE, RETRIEVAL, Arm, TokenIds
from horen_vllm.evals.questions.general import GeneralPrompt
from horen_vllm.evals.questions.plan import Plan
from horen_vllm.evals.records import Case, Question
from horen_vllm.evals.reporting.run_info import (
    LOOK_UP,
    RECORDS_FILE,
    ArmInfo,
    DatasetInfo,
    EditOutcome,
    ModelInfo,
    PhaseTime,
    RunInfo,
    StreamedCase,
)
from horen_vllm.evals.running import provenance
from horen_vllm.evals.running.books import Books
from horen_vllm.evals.running.journal import Journal
from horen_vllm.evals.running.judge import Judge, answering
from horen_vllm.evals.running.settings import RunSettings
from horen_vllm.evals.scoring import Similarity

ASK: Final = "ask"
SUPERSEDE: Final = "supersede"
ROLL_BACK: Final = "roll back"


class Display(Watcher, Protocol):
    """Who shows how far the run is."""

    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a run works with.

    Attributes
    ----------
    cases
        The whole stream of edits, in order.
    token_ids
        The same tokenizer as the model's, without asking a server each time; None: the model's own.
    static
        The arms that are saved codebooks.
    notes
        What a reader must know of where all this came from.
    """

    answerer: Answerer
    cases: Sequence[Case]
    dataset: DatasetInfo
    model: ModelInfo
    books: Books | None = None
    token_ids: TokenIds | None = None
    ordinary: Sequence[GeneralPrompt] = ()
    ability: Sequence[GeneralPrompt] = ()
    similarity: Similarity | None = None
    static: Sequence[ArmInfo] = ()
    notes: Sequence[str] = field(default_factory=tuple)


class EvalRun:
    """One run in one folder; the same settings on the same folder go on where an earlier start ended.

    Parameters
    ----------
    name
        Name of the run, where it is a new one; its codebooks are named after it.
    command
        The command that makes it again.
    concurrency
        Questions in flight.
    """

    def __init__(
        self,
        settings: RunSettings,
        material: Material,
        folder: Path,
        *,
        name: str,
        command: str,
        concurrency: int = 16,
        display: Display | None = None,
    ) -> None:
        self._settings = settings
        self._material = material
        self._folder = folder
        self._name = name
        self._command = command
        self._concurrency = concurrency
        self._display = display
        token_ids: TokenIds = lru_cache(maxsize=None)(material.token_ids or material.answerer.token_ids)
        self._plan = Plan(
            material.cases,
            settings.plan(),
            token_ids=token_ids,
            ordinary=material.ordinary,
            ability=material.ability,
        )
        self._judge = Judge(token_ids, material.similarity)

    def go(self) -> RunInfo:
        """Do what is still to be done, and return the description of the whole run; of a finished one, do nothing.

        Raises
        ------
        FailedPrecondition
            ``run_differs``, and as `Books`.
        Aborted
            ``run_in_use``: another process works on the same folder.
        HorenError
            As `answer_all`: what was answered is kept.
        """
        with RecordStore(self._folder / RECORDS_FILE) as store:
            self._journal = Journal(self._folder, self._fresh())
            if self._journal.info.finished_at is not None:
                return self._journal.info
            self._store = store
            self._judge.learn(read_records(store.path))
            self._notes()
            self._ask(BASE, 0, self._plan.base_questions(self._material.model.name), {})
            for checkpoint in self._settings.checkpoints:
                for arm in self._settings.arms:
                    self._at(arm, checkpoint)
            for arm in self._settings.arms:
                self._end(arm)
            self._journal.finish()
        return self._journal.info

    def _at(self, arm: str, checkpoint: int) -> None:
        edits: Mapping[int, str] = answering(self._journal.arm(arm).edits) if arm in self._settings.static else {}
        if arm in self._settings.books:
            outcomes = self._advanced(arm, checkpoint)
            if len(outcomes) > checkpoint or self._journal.did(SUPERSEDE, arm):
                # The codebook is past it. It got there only when everything that can be was answered.
                self._missing(arm, checkpoint)
                return
            edits = answering(outcomes)
        if arm != BASE:
            questions = self._plan.questions(self._arm(arm), checkpoint)
            self._ask(arm, checkpoint, questions, edits)
            self._looked_up(arm, checkpoint, len(questions))

    def _end(self, arm: str) -> None:
        if not self._plan.supersedings or arm not in (*self._settings.books, RETRIEVAL):
            return
        last = self._settings.edits
        if arm == RETRIEVAL:
            self._ask(arm, last, self._plan.superseded_questions(self._arm(arm)), {})
            return
        if not self._journal.did(ROLL_BACK, arm):
            with self._timed(SUPERSEDE, arm, len(self._plan.supersedings)):
                outcomes = self._books.supersede(self._journal, arm, self._plan.supersedings)
            self._ask(arm, last, self._plan.superseded_questions(self._arm(arm)), answering(outcomes))
            with self._timed(ROLL_BACK, arm, 1):
                self._books.empty(self._journal, arm)
        self._ask(arm, last, self._plan.rolled_back_questions(self._arm(arm)), {})

    def _advanced(self, arm: str, checkpoint: int) -> tuple[EditOutcome, ...]:
        done = len(self._journal.arm(arm).edits)
        if done < checkpoint:
            self._title(f"{arm}: edits to {checkpoint:,}")
            with self._timed("submit", arm, checkpoint - done, checkpoint):
                self._books.advance(self._journal, arm, checkpoint, self._display)
        self._books.check_served(self._journal.arm(arm), self._material.answerer)
        return self._journal.arm(arm).edits

    def _ask(self, arm: str, checkpoint: int, questions: Sequence[Question], edits: Mapping[int, str]) -> None:
        self._title(f"{arm}: questions after {checkpoint:,}" if checkpoint else f"{arm}: questions")
        began = time.monotonic()
        asked = answer_all(
            self._material.answerer,
            questions,
            self._store,
            lambda question, answer: self._judge.record(question, answer, edits),
            concurrency=self._concurrency,
            watcher=self._display,
        )
        seconds = time.monotonic() - began
        if asked.answered:
            took = PhaseTime(name=ASK, arm=arm, checkpoint=checkpoint, seconds=seconds, count=asked.answered)
            self._journal.took(took)
        if asked.refused:
            first = asked.refused[0]
            self._journal.note(
                f"{len(asked.refused)} questions to {arm} after {checkpoint} edits were refused by the server and "
                f"count nowhere; the first: {first.question.question_id}: {first.message}"
            )

    def _looked_up(self, arm: str, checkpoint: int, count: int) -> None:
        """Write down what finding the facts took, which is no part of the answers' own time."""
        if arm == RETRIEVAL:
            seconds = self._plan.lookup_seconds[checkpoint] * count
            took = PhaseTime(name=LOOK_UP, arm=arm, checkpoint=checkpoint, seconds=seconds, count=count)
            self._journal.took(took)

    def _missing(self, arm: str, checkpoint: int) -> None:
        questions = self._plan.questions(self._arm(arm), checkpoint)
        missing = sum(question.question_id not in self._store for question in questions)
        if missing:
            self._journal.note(
                f"{missing} questions to {arm} after {checkpoint} edits have no answer and count nowhere: they were "
                f"refused, or their answers were lost with the machine, and the codebook has moved on since."
            )

    def _arm(self, name: str) -> Arm:
        return Arm(name=name, model=self._journal.arm(name).model)

    def _fresh(self) -> RunInfo:
        settings, material = self._settings, self._material
        return RunInfo(
            name=self._name,
            command=self._command,
            settings=settings.told(),
            versions=provenance.versions(),
            machine=provenance.machine(),
            seeds={"questions": settings.seed, "bootstrap": settings.seed},
            dataset=material.dataset,
            model=material.model,
            arms=tuple(self._fresh_arm(arm) for arm in settings.arms),
            checkpoints=settings.checkpoints,
            stream=tuple(
                StreamedCase(case_id=case.case_id, prompt=case.prompt, target=case.target)
                for case in material.cases[: settings.edits]
            ),
            started_at=datetime.now(UTC),
        )

    def _fresh_arm(self, name: str) -> ArmInfo:
        model = self._material.model.name
        if name in self._settings.static:
            return next(arm for arm in self._material.static if arm.name == name)
        if name not in self._settings.books:
            return ArmInfo(name=name, model=model)
        book = f"eval-{self._name}-{name}"
        return ArmInfo(name=name, model=f"{model}@{book}", preset=name, codebook=book)

    def _notes(self) -> None:
        for note in self._material.notes:
            self._journal.note(note)
        for arm in self._material.static:
            found = sum(edit.failure is None for edit in arm.edits)
            self._journal.note(
                f"{arm.name} is a saved codebook with {found} of the {len(arm.edits)} edits of the stream."
            )
        for reason, count in sorted(self._plan.left_out.items()):
            self._journal.note(f"{count} questions of the stream are not asked: {reason.replace('_', ' ')}.")
        if self._settings.passages and self._material.similarity is None:
            self._journal.note("No semantic score: no model for it was given (--semantic-model).")

    @property
    def _books(self) -> Books:
        if self._material.books is None:
            raise ValueError("an arm with a codebook needs a control plane")
        return self._material.books

    def _title(self, title: str) -> None:
        if self._display is not None:
            self._display.title = title

    @contextmanager
    def _timed(self, name: str, arm: str, count: int, checkpoint: int | None = None) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._journal.took(PhaseTime(name=name, arm=arm, checkpoint=checkpoint, seconds=seconds, count=count))
