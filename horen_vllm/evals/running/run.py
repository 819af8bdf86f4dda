"""A whole run: base model first, then every arm at every checkpoint, then what supersedes and what is rolled back."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from horen_vllm.evals.asking.answerer import Answerer
from horen_vllm.evals.asking.progress import Unit
from horen_vllm.evals.asking.store import RecordStore, read_records
from horen_vllm.evals.questions.drafts import BASE, RETRIEVAL, Arm, TokenIds
from horen_vllm.evals.questions.general import GeneralPrompt
from horen_vllm.evals.questions.plan import Plan
from horen_vllm.evals.records import Case, Protocol, Question, QuestionKind
from horen_vllm.evals.reporting.run_info import (
    LOOK_UP,
    RECORDS_FILE,
    ArmInfo,
    AskingInfo,
    DatasetInfo,
    ModelInfo,
    PhaseTime,
    RunInfo,
    StreamedCase,
)
from horen_vllm.evals.running import provenance
from horen_vllm.evals.running.books import Books
from horen_vllm.evals.running.journal import Journal
from horen_vllm.evals.running.judge import Judge, answering
from horen_vllm.evals.running.phases import Asker, Display, Phase
from horen_vllm.evals.running.settings import RunSettings
from horen_vllm.evals.scoring import Similarity

SUBMIT: Final = "submit"
SUPERSEDE: Final = "supersede"
ROLL_BACK: Final = "roll back"


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
    asking
        How it asks.
    """

    def __init__(
        self,
        settings: RunSettings,
        material: Material,
        folder: Path,
        *,
        name: str,
        command: str,
        asking: AskingInfo | None = None,
        display: Display | None = None,
    ) -> None:
        self._settings = settings
        self._material = material
        self._folder = folder
        self._name = name
        self._command = command
        self._asking = asking or AskingInfo()
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
            self._judge.learn(read_records(store.path))
            self._asker = Asker(
                self._material.answerer,
                store,
                self._journal,
                self._judge,
                concurrency=self._asking.concurrency,
                display=self._display,
            )
            self._notes()
            base = self._plan.base_questions(self._material.model.name)
            self._show_whole(base, store)
            self._asker.ask(Phase(arm=BASE, checkpoint=0, when="before any edit"), base)
            for checkpoint in self._settings.checkpoints:
                for arm in self._settings.arms:
                    self._at(arm, checkpoint)
            for arm in self._settings.arms:
                self._end(arm)
            self._journal.finish()
        return self._journal.info

    def _at(self, arm: str, checkpoint: int) -> None:
        if arm == BASE:
            return
        phase = Phase(arm=arm, checkpoint=checkpoint, when=f"after {checkpoint} edits")
        if arm not in self._settings.books:
            saved = arm in self._settings.static
            phase = replace(phase, edits=answering(self._journal.arm(arm).edits) if saved else {})
            questions = self._plan.questions(self._arm(arm), checkpoint)
            self._asker.ask(phase, questions)
            if arm == RETRIEVAL:
                self._looked_up(arm, checkpoint, len(questions))
            return
        if self._is_past(arm, checkpoint):
            self._asker.missing(phase, self._plan.questions(self._arm(arm), checkpoint))
            return
        self._advance(arm, checkpoint)
        info = self._journal.arm(arm)
        state = next(state for state in info.states if state.checkpoint == checkpoint)
        phase = replace(phase, edits=answering(info.edits), revision=state.revision)
        self._ask_book(phase, self._plan.questions(self._arm(arm), checkpoint))

    def _is_past(self, arm: str, checkpoint: int) -> bool:
        """Whether an arm's codebook is past a checkpoint, or may be.

        It is moved on only when everything that can be was answered.
        """
        return (
            len(self._journal.arm(arm).edits) > checkpoint
            or self._journal.begun(SUBMIT, arm, after=checkpoint)
            or self._journal.begun(SUPERSEDE, arm)
        )

    def _end(self, arm: str) -> None:
        if not self._plan.supersedings or arm not in (*self._settings.books, RETRIEVAL):
            return
        phase = Phase(arm=arm, checkpoint=self._settings.edits, when="after some are superseded")
        questions = self._plan.superseded_questions(self._arm(arm))
        if arm == RETRIEVAL:
            self._asker.ask(phase, questions)
            return
        if self._journal.begun(ROLL_BACK, arm):
            self._asker.missing(phase, questions)
        else:
            self._supersede(arm)
            info = self._journal.arm(arm)
            phase = replace(phase, edits=answering(info.superseding), revision=info.superseded_revision)
            self._ask_book(phase, questions)
        if not self._journal.did(ROLL_BACK, arm):
            with self._timed(ROLL_BACK, arm, 1):
                self._books.empty(self._journal, arm)
        revision = self._journal.arm(arm).emptied_revision
        phase = replace(phase, when="after the rollback", edits={}, revision=revision)
        self._ask_book(phase, self._plan.rolled_back_questions(self._arm(arm)))

    def _advance(self, arm: str, checkpoint: int) -> None:
        done = len(self._journal.arm(arm).edits)
        if done < checkpoint:
            if self._display is not None:
                self._display.part(f"{arm}: edits to {checkpoint}", Unit.EDITS)
            with self._timed(SUBMIT, arm, checkpoint - done, checkpoint):
                self._books.advance(self._journal, arm, checkpoint, self._display)

    def _supersede(self, arm: str) -> None:
        if not self._journal.arm(arm).superseding:
            with self._timed(SUPERSEDE, arm, len(self._plan.supersedings)):
                self._books.supersede(self._journal, arm, self._plan.supersedings)

    def _ask_book(self, phase: Phase, questions: Sequence[Question]) -> None:
        """Ask an arm with a codebook, which must be there as the phase says."""
        self._books.check_served(self._journal.arm(phase.arm), self._material.answerer)
        if phase.revision is not None and self._asker.left(questions):
            phase = replace(phase, revision=self._books.revision(self._journal, phase.arm, phase.revision))
        self._asker.ask(phase, questions)

    def _looked_up(self, arm: str, checkpoint: int, count: int) -> None:
        """Write down what finding the facts took, which is no part of the answers' own time."""
        seconds = self._plan.lookup_seconds[checkpoint] * count
        self._journal.took(PhaseTime(name=LOOK_UP, arm=arm, checkpoint=checkpoint, seconds=seconds, count=count))

    def _show_whole(self, base: Sequence[Question], store: RecordStore) -> None:
        """Tell the display how much there is to do in all, and how much of it is done."""
        if self._display is None:
            return
        ids = [question.question_id for question in base]
        ids += [name for arm in self._settings.arms if arm != BASE for name in self._plan.question_ids(arm)]
        self._display.whole(Unit.QUESTIONS, len(ids), sum(name in store for name in ids))
        books = [self._journal.arm(arm) for arm in self._settings.books]
        self._display.whole(Unit.EDITS, self._settings.edits * len(books), sum(len(book.edits) for book in books))

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
            asking=self._asking,
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
        for note in self._plan.notes():
            self._journal.note(note)
        wanted = self._settings.plan().wants(Protocol.FIRE, QuestionKind.ORDINARY)
        if wanted and not self._material.ordinary and self._routed:
            self._journal.note(
                "No prompts of ordinary use were given (--ordinary): how many of 10,000 fire is not measured."
            )
        if self._settings.passages and self._material.similarity is None:
            self._journal.note("No semantic score: no model for it was given (--semantic-model).")

    @property
    def _routed(self) -> bool:
        """Whether any arm has a codebook, in which a prompt may fire."""
        return any(arm not in {BASE, RETRIEVAL} for arm in self._settings.arms)

    @property
    def _books(self) -> Books:
        if self._material.books is None:
            raise ValueError("an arm with a codebook needs a control plane")
        return self._material.books

    @contextmanager
    def _timed(self, name: str, arm: str, count: int, checkpoint: int | None = None) -> Iterator[None]:
        self._journal.begin(name, arm, checkpoint)
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._journal.took(PhaseTime(name=name, arm=arm, checkpoint=checkpoint, seconds=seconds, count=count))
