"""The benchmark of asking, on a server that answers at once: what it asks, what it scores, what it calls met."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import pytest

from bench import eval_throughput
from bench.eval_throughput import compared, measure, questions_for
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.evals.asking.store import RecordStore
from horen_vllm.evals.asking.tokenizer import LocalTokenizer
from horen_vllm.evals.records import Protocol, QuestionKind, Record
from tests.unit.evals.asking.scripted import Handler, Script, completion

COUNT = 48
TOKENIZER = LocalTokenizer(demo_model_dir())


class Server(ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = True


def answer(handler: Handler, body: dict[str, Any]) -> None:
    if handler.path == "/tokenize":
        handler.answer({"tokens": list(TOKENIZER.token_ids(body["prompt"]))})
    else:
        handler.answer(completion(body, horen={"edit_id": None, "score": 0.1}))


@pytest.fixture
def script() -> Script:
    return Script(otherwise=answer)


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    with Server(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_every_form_is_asked_of_the_base_and_then_of_the_codebook() -> None:
    questions = questions_for("demo", COUNT, TOKENIZER.token_ids)
    assert len(questions) == len({it.question_id for it in questions}) == COUNT
    half = COUNT // 2
    assert {it.model for it in questions[:half]} == {"demo"}
    assert {it.model for it in questions[half:]} == {"demo@latency"}
    for part in (questions[:half], questions[half:]):
        assert Counter(it.protocol for it in part) == dict.fromkeys(
            (Protocol.PAPER, Protocol.STRICT, Protocol.PASSAGE, Protocol.FIRE), half // 4
        )
        assert {it.kind for it in part if it.protocol is Protocol.PAPER} == {QuestionKind.EDIT, QuestionKind.UNRELATED}
    with pytest.raises(ValueError, match="fewer than 8"):
        questions_for("demo", 7, TOKENIZER.token_ids)


def test_answers_are_scored_as_in_a_run_and_both_sides_ask_the_same(
    url: str, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[Record] = []

    class Kept(RecordStore):
        def append(self, record: Record) -> None:
            stored.append(record)
            super().append(record)

    monkeypatch.setattr(eval_throughput, "RecordStore", Kept)
    monkeypatch.setattr(eval_throughput, "_WARM_UP", COUNT)
    found = measure(url, "demo", COUNT, 2, 4)
    assert len(found["pairs"]) == 2
    assert found["share"] > 0
    of_books = [record for record in stored if "@" in record.question.model]
    assert len(of_books) == 3 * COUNT // 2
    wanted = {
        Protocol.PAPER: {"token_accuracy", "unchanged"},
        Protocol.STRICT: {"normalised", "unchanged"},
        Protocol.PASSAGE: {"rougeL", "unke_bleu", "unchanged"},
        Protocol.FIRE: {"locality", "unchanged"},
    }
    for record in of_books:
        assert wanted[record.question.protocol] <= record.metrics.keys()
    sent = Counter(str(sorted(call.body.items())) for call in script.calls if call.path != "/tokenize")
    assert set(sent.values()) == {6}, "three rounds of two sides send each request once"


@pytest.mark.parametrize(
    ("shares", "met"),
    [
        ([0.9] * 10, True),
        ([0.795] * 10, True),
        ([0.78] * 10, False),
        # The mean is well above the goal, and may as well be below it.
        ([1.4, 0.5] * 5, False),
    ],
)
def test_the_goal_is_met_by_the_interval_and_not_by_the_mean(shares: list[float], met: bool) -> None:
    found = compared([{"evaluate": share, "generate": 1.0, "share": share} for share in shares])
    assert found["met"] is met
    assert found["share_interval_95"][0] <= found["share"] <= found["share_interval_95"][1]
