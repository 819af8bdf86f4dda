"""Runs made of numbers: records and a description, without a server."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from horen_vllm.evals.asking.store import RecordStore
from horen_vllm.evals.records import Answer, Protocol, Question, QuestionKind, Record
from horen_vllm.evals.reporting.run_info import (
    RECORDS_FILE,
    ArmInfo,
    CodebookState,
    DatasetInfo,
    DefectInfo,
    EditOutcome,
    ModelInfo,
    RunInfo,
    StreamedCase,
)
from horen_vllm.evals.scoring import score

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def record(
    kind: QuestionKind = QuestionKind.EDIT,
    protocol: Protocol = Protocol.PAPER,
    *,
    arm: str = "cosine",
    checkpoint: int = 10,
    case: int | None = 0,
    part: int = 0,
    prompt: str = "What is it?",
    targets: Sequence[str] = ("yes",),
    text: str = "yes",
    edit_id: str | None = None,
    score: float | None = None,
    seconds: float = 0.5,
    expected: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Record:
    """Return a record with the id that the plan would give its question."""
    case_id = None if case is None else f"c{case}"
    return Record(
        question=Question(
            question_id=f"{arm}/{checkpoint}/{protocol}/{kind}/{case_id or ''}/{part}",
            arm=arm,
            model="tiny" if arm in {"base", "retrieval"} else f"tiny@eval-{arm}",
            checkpoint=checkpoint,
            protocol=protocol,
            kind=kind,
            case_id=case_id,
            position=case,
            prompt=prompt,
            max_tokens=4,
            targets=tuple(targets),
        ),
        answer=Answer(
            text=text,
            token_ids=tuple(text.encode("utf-8", "surrogatepass")),
            prompt_token_ids=tuple(prompt.encode()),
            finish_reason="length",
            edit_id=edit_id,
            score=score,
            seconds=seconds,
        ),
        metrics=metrics or {},
        expected_edit=expected,
    )


def info(
    *,
    arms: Sequence[ArmInfo] = (),
    checkpoints: Sequence[int] = (10,),
    seeds: Mapping[str, int] | None = None,
    stream: Sequence[StreamedCase] = (),
    finished: bool = True,
    sha256: str = "0" * 64,
    settings: Mapping[str, int | str] | None = None,
    defects: Sequence[DefectInfo] = (),
) -> RunInfo:
    """Return a description of a run."""
    return RunInfo(
        name="made",
        command="horen eval zsre edits.jsonl --edits 10",
        settings=dict(settings or {"sample": 10}),
        versions={"horen-vllm": "0.1.0", "vllm": "0.32.0"},
        seeds=dict(seeds or {"plan": 1, "bootstrap": 7}),
        dataset=DatasetInfo(
            name="zsre", path="zsre/edits.jsonl", sha256=sha256, layout="normalised", cases=10, defects=tuple(defects)
        ),
        model=ModelInfo(name="tiny"),
        arms=tuple(arms),
        checkpoints=tuple(checkpoints),
        stream=tuple(stream),
        started_at=START,
        finished_at=START if finished else None,
    )


def save(folder: Path, about: RunInfo, records: Sequence[Record]) -> Path:
    """Write a run as `horen eval` does."""
    about.save(folder)
    with RecordStore(folder / RECORDS_FILE) as store:
        for one in records:
            store.append(one)
    return folder


@dataclass(frozen=True, slots=True)
class World:
    """A whole run whose truth is known: edits on numbered subjects, one codebook an arm.

    Attributes
    ----------
    arms
        Arm to how often a rephrase finds its edit, and how often a negative fires.
    """

    edits: int = 40
    checkpoints: tuple[int, ...] = (10, 40)
    arms: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: {"calibrated": (0.9, 0.02), "cosine": (0.6, 0.2)}
    )
    seed: int = 3
    answer: Callable[[int], str] = lambda number: f"answer {number}"

    def info(self) -> RunInfo:
        """Return the run's description."""
        stream = [
            StreamedCase(case_id=f"c{at}", prompt=f"What is {at}?", target=self.answer(at)) for at in range(self.edits)
        ]
        arms = [ArmInfo(name="base", model="tiny")]
        arms += [
            ArmInfo(
                name=arm,
                model=f"tiny@eval-{arm}",
                preset=arm,
                codebook=f"eval-{arm}",
                parameters={"threshold": 0.8},
                edits=tuple(self._outcome(at) for at in range(self.edits)),
                states=tuple(
                    CodebookState(
                        checkpoint=at,
                        revision=at + 1,
                        entries=at,
                        threshold=0.8,
                        memory_bytes=at * 1000,
                        submit_seconds=at * 0.5,
                    )
                    for at in self.checkpoints
                ),
            )
            for arm in self.arms
        ]
        return info(arms=arms, checkpoints=self.checkpoints, stream=stream)

    def records(self) -> Iterator[Record]:
        """Yield the answers of every arm at every checkpoint, scored as a run scores them."""
        asked = dict.fromkeys((kind, protocol, at) for kind, protocol, at, _ in self._questions(self.edits))
        base = {key: self._answered("base", 0, *key, fires=False, right=False) for key in asked}
        yield from (self._scored(one, one.answer) for one in base.values())
        for arm, (finds, false) in self.arms.items():
            draw = random.Random(f"{self.seed}{arm}")
            for checkpoint in self.checkpoints:
                for kind, protocol, at, positive in self._questions(checkpoint):
                    sure = kind is QuestionKind.EDIT
                    fires = sure or draw.random() < (finds if positive else false)
                    one = self._answered(arm, checkpoint, kind, protocol, at, fires=fires, right=positive)
                    yield self._scored(one, base[kind, protocol, at].answer)

    def _questions(self, edits: int) -> Iterator[tuple[QuestionKind, Protocol, int, bool]]:
        for at in range(edits):
            for protocol in (Protocol.PAPER, Protocol.STRICT):
                yield QuestionKind.EDIT, protocol, at, True
                yield QuestionKind.REPHRASE, protocol, at, True
            for protocol in (Protocol.PAPER, Protocol.FIRE):
                yield QuestionKind.UNRELATED, protocol, at, False
                yield QuestionKind.NEAR, protocol, at, False
            yield QuestionKind.CONTINUE, Protocol.CONTINUATION, at, True
            yield QuestionKind.TYPO, Protocol.STRICT, at, True

    def _answered(
        self, arm: str, checkpoint: int, kind: QuestionKind, protocol: Protocol, at: int, *, fires: bool, right: bool
    ) -> Record:
        negative = kind in {QuestionKind.UNRELATED, QuestionKind.NEAR}
        # Negatives that fire score lower than the edits' own prompts.
        number = 0.81 + 0.1 * (at % 10) / 10 + (0.0 if negative else 0.05)
        return record(
            kind,
            protocol,
            arm=arm,
            checkpoint=checkpoint,
            case=at,
            prompt=f"{kind} of {at}?",
            targets=() if negative else (self.answer(at),),
            text=self.answer(at) if fires else f"base {at}",
            edit_id=f"e{at}" if fires else None,
            score=None if arm == "base" else (number if fires else 0.5 + at / 1000),
            seconds=0.1 + at / 100,
            expected=f"e{at}" if right and not negative else None,
        )

    def _scored(self, one: Record, base: Answer) -> Record:
        found = score(
            one.question,
            one.answer,
            target_ids=tuple(one.question.targets[0].encode()) if one.question.targets else (),
            base=base,
            expected_edit=one.expected_edit,
        )
        return Record(question=one.question, answer=one.answer, metrics=found, expected_edit=one.expected_edit)

    def _outcome(self, at: int) -> EditOutcome:
        if at % 20 == 19:
            return EditOutcome(position=at, edit_id=f"e{at}", failure="target_not_reached", seconds=3.0, sequence=at)
        return EditOutcome(position=at, edit_id=f"e{at}", seconds=1.0, sequence=at)


def made(folder: Path, world: World | None = None) -> Path:
    """Write the run of a world."""
    known = world or World()
    return save(folder, known.info(), list(known.records()))
