"""Asking many questions: each is asked once, stored once, and a run that ended early goes on."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.errors import HorenError, InvalidArgument, NotFound, Unavailable
from horen_vllm.evals.asking.http import HttpAnswerer
from horen_vllm.evals.asking.running import Asked, answer_all
from horen_vllm.evals.asking.store import RecordStore, read_records
from horen_vllm.evals.records import Answer, Question, Record
from tests.unit.evals.asking.scripted import QUICK, Script, question, status

QUESTIONS = [question(f"text {number}", number=number) for number in range(60)]


class Echo:
    """Answers with the prompt; `before` may do something else first."""

    def __init__(self, before: Callable[[Question], None] = lambda _question: None) -> None:
        self.before = before
        self.asked: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def ask(self, question: Question) -> Answer:
        with self._lock:
            self.asked[question.question_id] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.before(question)
        finally:
            with self._lock:
                self.at_once -= 1
        text = question.prompt or ""
        return Answer(text=text, token_ids=(1,), prompt_token_ids=(2,), finish_reason="stop", seconds=0.0)

    def token_ids(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def model_names(self) -> tuple[str, ...]:
        return ("demo",)


class Counting:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.steps = 0

    def begin(self, total: int, done: int) -> None:
        self.begun.append((total, done))

    def advance(self) -> None:
        self.steps += 1


def scored(question: Question, answer: Answer) -> Record:
    return Record(question=question, answer=answer, metrics={"same": float(answer.text == question.prompt)})


def ids(path: Path) -> list[str]:
    return sorted(record.question.question_id for record in read_records(path))


def every_id() -> list[str]:
    return sorted(question.question_id for question in QUESTIONS)


def test_every_question_is_asked_once_and_its_record_stored(tmp_path: Path) -> None:
    answerer, watcher = Echo(), Counting()
    with RecordStore(tmp_path / "r.jsonl") as store:
        asked = answer_all(answerer, QUESTIONS, store, scored, concurrency=8, watcher=watcher)
    assert asked == Asked(answered=60)
    assert ids(tmp_path / "r.jsonl") == every_id()
    assert all(record.metrics == {"same": 1.0} for record in read_records(tmp_path / "r.jsonl"))
    assert set(answerer.asked.values()) == {1}
    assert (watcher.begun, watcher.steps) == ([(60, 0)], 60)


def test_as_many_are_in_flight_as_were_asked_for_and_no_more(tmp_path: Path) -> None:
    meeting = threading.Barrier(6, timeout=30)

    def meet(_question: Question) -> None:
        meeting.wait()

    answerer = Echo(meet)
    with RecordStore(tmp_path / "r.jsonl") as store:
        answer_all(answerer, QUESTIONS, store, scored, concurrency=6)
    assert answerer.most_at_once == 6


@settings(deadline=None)
@given(known=st.sets(st.integers(0, 59)), concurrency=st.integers(1, 9))
def test_a_resumed_run_asks_what_has_no_record(
    tmp_path_factory: pytest.TempPathFactory, known: set[int], concurrency: int
) -> None:
    path, answerer, watcher = tmp_path_factory.mktemp("run") / "r.jsonl", Echo(), Counting()
    with RecordStore(path) as store:
        answer_all(Echo(), [QUESTIONS[number] for number in known], store, scored)
    with RecordStore(path) as store:
        asked = answer_all(answerer, QUESTIONS, store, scored, concurrency=concurrency, watcher=watcher)
    assert (asked.answered, asked.skipped) == (60 - len(known), len(known))
    assert set(answerer.asked) == {f"q{number}" for number in range(60) if number not in known}
    assert ids(path) == every_id()
    assert watcher.begun == [(60, len(known))]


def test_a_server_that_goes_away_ends_the_run_without_wrong_answers_and_the_rest_is_asked_later(
    url: str, script: Script, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    good = script.otherwise
    script.replies = [good] * 20
    script.otherwise = status(503)
    with HttpAnswerer(url, patience=QUICK) as answerer, RecordStore(path) as store:
        with pytest.raises(Unavailable) as caught:
            answer_all(answerer, QUESTIONS, store, scored, concurrency=4)
        assert caught.value.code == "server_unavailable"
    assert len(ids(path)) == 20
    script.otherwise = good
    with HttpAnswerer(url, patience=QUICK) as answerer, RecordStore(path) as store:
        asked = answer_all(answerer, QUESTIONS, store, scored, concurrency=4)
    assert (asked.answered, asked.skipped) == (40, 20)
    assert ids(path) == every_id()
    assert all(record.answer.text == (record.question.prompt or "")[::-1] for record in read_records(path))


def test_a_refused_question_is_counted_and_the_others_are_asked(tmp_path: Path) -> None:
    def refuse(question: Question) -> None:
        if question.question_id in {"q7", "q30"}:
            raise InvalidArgument("too long", code="question_refused")

    path, watcher = tmp_path / "r.jsonl", Counting()
    with RecordStore(path) as store:
        asked = answer_all(Echo(refuse), QUESTIONS, store, scored, watcher=watcher)
        assert sorted(refusal.question.question_id for refusal in asked.refused) == ["q30", "q7"]
        assert {refusal.message for refusal in asked.refused} == {"too long"}
        assert (asked.answered, watcher.steps) == (58, 60)
        again = answer_all(Echo(), QUESTIONS, store, scored)
    assert (again.answered, again.skipped) == (2, 58)


def test_an_error_stops_the_asking_and_answers_under_way_are_kept(tmp_path: Path) -> None:
    failed = threading.Event()

    def before(question: Question) -> None:
        if question.question_id == "q3":
            failed.set()
            raise NotFound("no such codebook", code="unknown_codebook")
        failed.wait(30)

    answerer, path = Echo(before), tmp_path / "r.jsonl"
    with RecordStore(path) as store, pytest.raises(HorenError) as caught:
        answer_all(answerer, QUESTIONS, store, scored, concurrency=4)
    assert caught.value.code == "unknown_codebook"
    assert {"q0", "q1", "q2"} <= set(ids(path))
    assert set(ids(path)) == set(answerer.asked) - {"q3"}
    assert len(answerer.asked) < 60


def test_a_defect_in_the_scoring_is_not_swallowed(tmp_path: Path) -> None:
    def broken(_question: Question, _answer: Answer) -> Record:
        raise ZeroDivisionError

    with RecordStore(tmp_path / "r.jsonl") as store, pytest.raises(ZeroDivisionError):
        answer_all(Echo(), QUESTIONS, store, broken)
    assert ids(tmp_path / "r.jsonl") == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A process that was started in the background may be deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_keeps_what_is_answered_and_does_not_wait_for_the_rest(tmp_path: Path) -> None:
    release, interrupted = threading.Event(), threading.Event()

    def before(question: Question) -> None:
        if question.question_id == "q10":
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)
        if interrupted.is_set():
            release.wait(60)

    answerer, path = Echo(before), tmp_path / "r.jsonl"
    try:
        with RecordStore(path) as store, pytest.raises(KeyboardInterrupt):
            answer_all(answerer, QUESTIONS, store, scored, concurrency=2)
        stored = ids(path)
        assert not release.is_set()
    finally:
        release.set()
    assert "q10" not in stored
    assert set(stored) <= {f"q{number}" for number in range(12)}
    assert len(stored) >= 9


def test_two_questions_with_one_id_are_refused(tmp_path: Path) -> None:
    with RecordStore(tmp_path / "r.jsonl") as store, pytest.raises(ValueError, match="same id"):
        answer_all(Echo(), [question("a"), question("b")], store, scored)


def test_a_question_that_always_fails_is_counted_and_the_others_are_asked(
    url: str, script: Script, tmp_path: Path
) -> None:
    usual = script.otherwise
    poison = QUESTIONS[7]
    script.otherwise = lambda handler, body: (status(500) if body["prompt"] == poison.prompt else usual)(handler, body)
    with HttpAnswerer(url, patience=QUICK) as answerer, RecordStore(tmp_path / "r.jsonl") as store:
        asked = answer_all(answerer, QUESTIONS, store, scored, concurrency=1)
    assert [refusal.question for refusal in asked.unanswered] == [poison]
    assert (asked.answered, asked.refused) == (59, [])
    assert poison.question_id not in ids(tmp_path / "r.jsonl")
