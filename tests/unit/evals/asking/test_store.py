"""The file of records: nothing that was stored is lost, and nothing half written is read."""

import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horen_vllm.errors import Aborted, DataLoss
from horen_vllm.evals.asking.store import RecordStore, read_records
from horen_vllm.evals.records import Answer, Message, Protocol, Question, QuestionKind, Record

TEXTS = st.text(st.characters(), max_size=20)


def make(number: int, text: str = "answer") -> Record:
    question = Question(
        question_id=f"q{number}",
        arm="cosine",
        model="demo@facts",
        checkpoint=10,
        protocol=Protocol.STRICT,
        kind=QuestionKind.REPHRASE,
        case_id="c1",
        position=number,
        messages=(Message(role="user", content=text),),
        max_tokens=5,
        targets=(text,),
    )
    answer = Answer(
        text=text, token_ids=(1, 2), prompt_token_ids=(3,), finish_reason="stop", edit_id="e", score=0.5, seconds=0.1
    )
    return Record(question=question, answer=answer, metrics={"exact": 1.0}, expected_edit="e")


def test_records_come_back_as_they_were_and_their_questions_are_known(tmp_path: Path) -> None:
    path = tmp_path / "run" / "records.jsonl"
    records = [make(number) for number in range(3)]
    with RecordStore(path) as store:
        for record in records:
            store.append(record)
        assert list(read_records(path)) == records
        assert ("q1" in store, "q9" in store, len(store)) == (True, False, 3)
    with RecordStore(path) as store:
        assert ("q1" in store, "q9" in store, len(store), store.repaired) == (True, False, 3, False)
        store.append(make(3))
    assert list(read_records(path)) == [*records, make(3)]


@given(text=TEXTS)
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("run") / "records.jsonl"
    with RecordStore(path) as store:
        store.append(make(1, text))
        store.append(make(2, f"\ud800{text}\u2028\r\n"))
    assert list(read_records(path)) == [make(1, text), make(2, f"\ud800{text}\u2028\r\n")]


@given(st.data())
def test_a_file_that_was_cut_anywhere_keeps_its_whole_lines_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("run") / "records.jsonl"
    with RecordStore(path) as store:
        for number in range(4):
            store.append(make(number))
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    assert list(read_records(path)) == [make(number) for number in range(whole)]
    with RecordStore(path) as store:
        assert (len(store), store.repaired) == (whole, not (content[:cut].endswith(b"\n") or cut == 0))
        store.append(make(9))
    assert list(read_records(path)) == [*(make(number) for number in range(whole)), make(9)]


@pytest.mark.parametrize("torn", [b"\0\0\0\0", b"\0\0\n", b'{"question": {}}\n', b"[]\n", b"\xff\n"])
def test_a_last_line_that_is_no_record_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "records.jsonl"
    with RecordStore(path) as store:
        store.append(make(1))
    with path.open("ab") as file:
        file.write(torn)
    assert list(read_records(path)) == [make(1)]
    with RecordStore(path) as store:
        assert (len(store), store.repaired) == (1, True)
    assert list(read_records(path)) == [make(1)]


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b'{"question": {"question_id": "q"}, "answer": {}}'])
def test_damage_before_the_last_line_is_refused_with_its_place_and_nothing_is_cut(
    tmp_path: Path, damage: bytes
) -> None:
    path = tmp_path / "records.jsonl"
    line = json.dumps({}).encode()
    with RecordStore(path) as store:
        store.append(make(1))
    with path.open("ab") as file:
        file.write(damage + b"\n" + line + b"\n")
    before = path.read_bytes()
    for act in (lambda: list(read_records(path)), lambda: RecordStore(path)):
        with pytest.raises(DataLoss, match="line 2") as caught:
            act()
        assert caught.value.code == "records_damaged"
        assert str(path) in caught.value.message
    assert path.read_bytes() == before


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordStore(path) as store:
        with pytest.raises(Aborted) as caught:
            RecordStore(path)
        assert caught.value.code == "run_in_use"
        store.append(make(1))
    with RecordStore(path) as store:
        assert "q1" in store


def test_the_same_question_is_not_stored_twice(tmp_path: Path) -> None:
    with RecordStore(tmp_path / "records.jsonl") as store:
        store.append(make(1))
        with pytest.raises(ValueError, match="answered already"):
            store.append(make(1))
    assert len(list(read_records(tmp_path / "records.jsonl"))) == 1


def test_a_metric_that_is_not_a_number_is_no_record(tmp_path: Path) -> None:
    record = make(1)
    broken = Record(question=record.question, answer=record.answer, metrics={"rouge": float("nan")})
    with RecordStore(tmp_path / "records.jsonl") as store:
        with pytest.raises(ValueError, match="JSON"):
            store.append(broken)
        store.append(record)
    assert list(read_records(tmp_path / "records.jsonl")) == [record]


def test_many_threads_append_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordStore(path) as store:

        def append(first: int) -> None:
            for number in range(first, first + 50):
                store.append(make(number, "x" * 5000))

        threads = [threading.Thread(target=append, args=(first,)) for first in range(0, 400, 50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {record.question.question_id for record in read_records(path)} == {f"q{number}" for number in range(400)}


def _append_until_killed(path: Path, told: Any) -> None:
    with RecordStore(path) as store:
        for number in range(1_000_000):
            store.append(make(number, "x" * 300))
            told.value = number


def test_what_was_appended_outlives_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    context = multiprocessing.get_context("spawn")
    told = context.Value("q", -1)
    process = context.Process(target=_append_until_killed, args=(path, told))
    process.start()
    while told.value < 200:
        process.join(0.01)
        assert process.exitcode is None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with RecordStore(path) as store:
        assert all(f"q{number}" in store for number in range(told.value + 1))
        assert len(store) in {told.value + 1, told.value + 2}
