"""The answerer against a real server that misbehaves in every way it may."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from horen_vllm.errors import HorenError, Unavailable
from horen_vllm.evals.asking.calling import Patience
from horen_vllm.evals.asking.http import HttpAnswerer
from horen_vllm.evals.records import Answer
from tests.unit.evals.asking.scripted import (
    QUICK,
    Handler,
    Reply,
    Script,
    completion,
    drop,
    question,
    reply,
    status,
)


@pytest.fixture
def answerer(url: str) -> Iterator[HttpAnswerer]:
    with HttpAnswerer(url, patience=QUICK) as made:
        yield made


def test_a_completion_is_asked_greedily_and_read_whole(answerer: HttpAnswerer, script: Script) -> None:
    answer = answerer.ask(question("abc"))
    assert (answer.text, answer.token_ids, answer.prompt_token_ids) == ("cba", (99, 98, 97), (1, 2, 3))
    assert (answer.finish_reason, answer.edit_id, answer.score) == ("stop", None, None)
    assert answer.seconds > 0
    [call] = script.calls
    assert call.path == "/v1/completions"
    expected = {"model": "demo", "prompt": "abc", "max_tokens": 5, "temperature": 0.0, "return_token_ids": True}
    assert call.body == expected


@pytest.mark.parametrize("chat", [False, True])
def test_a_least_length_is_asked_for_where_there_is_one(answerer: HttpAnswerer, script: Script, chat: bool) -> None:
    answerer.ask(replace(question("abc", chat=chat), min_tokens=5))
    [call] = script.calls
    assert (call.body["min_tokens"], call.body["max_tokens"]) == (5, 5)


def test_a_chat_sends_its_turns_and_finds_the_ids_where_a_chat_has_them(answerer: HttpAnswerer, script: Script) -> None:
    answer = answerer.ask(question("abc", chat=True))
    assert (answer.text, answer.token_ids, answer.prompt_token_ids) == ("cba", (99, 98, 97), (1, 2, 3))
    [call] = script.calls
    assert (call.path, call.body["messages"]) == ("/v1/chat/completions", [{"role": "user", "content": "abc"}])


def test_what_fired_is_read_from_the_choice(answerer: HttpAnswerer, script: Script) -> None:
    for decision in ({"edit_id": "e1", "score": 0.9}, {"edit_id": None, "score": None}):
        script.replies = [lambda handler, body, it=decision: handler.answer(completion(body, horen=it))]  # type: ignore[misc]
        answer = answerer.ask(question(model="demo@facts"))
        assert (answer.edit_id, answer.score) == (decision["edit_id"], decision["score"])


def test_an_answer_without_text_is_an_empty_one(answerer: HttpAnswerer, script: Script) -> None:
    script.replies = [lambda handler, body: handler.answer(completion(body, message={"content": None}))]
    assert answerer.ask(question(chat=True)).text == ""


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(drop, id="dropped"),
        pytest.param(lambda handler, _body: handler.connection.shutdown(socket.SHUT_RDWR), id="reset"),
        *(pytest.param(status(code), id=str(code)) for code in (408, 425, 429, 500, 502, 503, 504)),
        pytest.param(lambda handler, body: handler.answer(completion(body, finish_reason="abort")), id="aborted"),
        pytest.param(lambda handler, body: handler.answer(completion(body, finish_reason=None)), id="unfinished"),
    ],
)
def test_faults_are_tried_again_until_there_is_a_whole_answer(
    answerer: HttpAnswerer, script: Script, fault: Reply
) -> None:
    script.replies = [fault, fault, fault]
    assert answerer.ask(question("abc")).text == "cba"
    assert len(script.calls) == 4


def test_a_server_that_never_answers_is_given_up_without_an_answer(answerer: HttpAnswerer, script: Script) -> None:
    script.otherwise = status(503)
    with pytest.raises(Unavailable) as caught:
        answerer.ask(question())
    assert caught.value.code == "server_unavailable"
    assert "status 503" in caught.value.message
    # And one easy question, to see whether it answers others.
    assert len(script.calls) == QUICK.attempts + 1
    assert script.calls[-1].body["prompt"] == "Hello"


def test_nobody_at_the_address_is_unavailable_too(url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with HttpAnswerer(address, patience=QUICK) as answerer, pytest.raises(Unavailable, match="4 attempts"):
            answerer.ask(question())


def test_a_slow_answer_is_timed_out_and_its_time_does_not_count(url: str, script: Script) -> None:
    release = threading.Event()

    def slow(handler: Handler, _body: dict[str, Any]) -> None:
        release.wait(30)
        handler.close_connection = True

    script.replies = [slow]
    patience = Patience(timeout_s=1.0, attempts=3, first_wait_s=0.001, longest_wait_s=0.01)
    try:
        with HttpAnswerer(url, patience=patience) as answerer:
            answer = answerer.ask(question("abc"))
    finally:
        release.set()
    assert answer.text == "cba"
    assert answer.seconds < 1.0
    assert len(script.calls) == 2


@pytest.mark.parametrize(
    ("asked_for", "longest_s", "least_s"),
    [("1", 60.0, 1.0), ("3600", 0.05, 0.05), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.05, 0.0)],
)
def test_the_servers_own_word_on_when_to_come_back_is_heeded_up_to_the_longest_wait(
    url: str, script: Script, asked_for: str, longest_s: float, least_s: float
) -> None:
    script.replies = [status(429, retry_after=asked_for)]
    began = time.monotonic()
    with HttpAnswerer(url, patience=Patience(attempts=2, first_wait_s=0.0, longest_wait_s=longest_s)) as answerer:
        assert answerer.ask(question("abc")).text == "cba"
    assert time.monotonic() - began >= least_s


@pytest.mark.parametrize(
    ("fault", "code", "kind"),
    [
        (status(400, "too long", 400), "question_refused", "InvalidArgument"),
        (status(422, "odd"), "question_refused", "InvalidArgument"),
        (status(401, slug="invalid_api_key"), "invalid_api_key", "Unauthenticated"),
        (status(403, slug="route_not_offered"), "route_not_offered", "PermissionDenied"),
        (status(404, "no such model", 404), "unknown_model", "NotFound"),
        (status(404, slug="unknown_codebook"), "unknown_codebook", "NotFound"),
        (status(409, slug="unsupported_tokenizer"), "unsupported_tokenizer", "FailedPrecondition"),
        (lambda handler, _body: handler.send(b"moved", 301, {"location": "/"}), "unexpected_answer", None),
        (lambda handler, _body: handler.send(b"<html>"), "unreadable_answer", "DataLoss"),
        (reply([1]), "unreadable_answer", "DataLoss"),
        (reply({"choices": []}), "unreadable_answer", "DataLoss"),
        (
            lambda handler, _body: handler.answer({"choices": [{"text": "a", "finish_reason": "stop"}]}),
            "no_token_ids",
            None,
        ),
    ],
)
def test_what_asking_again_would_not_change_is_said_at_once(
    answerer: HttpAnswerer, script: Script, fault: Reply, code: str, kind: str | None
) -> None:
    script.replies = [fault]
    with pytest.raises(HorenError) as caught:
        answerer.ask(question())
    assert caught.value.code == code
    assert kind is None or type(caught.value).__name__ == kind
    assert len(script.calls) == 1


def test_a_codebook_whose_answers_do_not_say_what_fired_is_refused(answerer: HttpAnswerer) -> None:
    with pytest.raises(HorenError) as caught:
        answerer.ask(question(model="demo@facts"))
    assert caught.value.code == "no_decision"


def test_half_of_a_surrogate_pair_is_refused_before_it_is_sent(answerer: HttpAnswerer, script: Script) -> None:
    with pytest.raises(HorenError) as caught:
        answerer.ask(question("a\ud800b"))
    assert (caught.value.code, script.calls) == ("question_refused", [])


def test_tokens_are_asked_for_once_a_text_and_without_special_ones(answerer: HttpAnswerer, script: Script) -> None:
    script.otherwise = reply({"tokens": [5, 6]})
    assert [answerer.token_ids(text) for text in (" a", " a", " b")] == [(5, 6)] * 3
    assert [(call.path, call.body) for call in script.calls] == [
        ("/tokenize", {"prompt": text, "add_special_tokens": False}) for text in (" a", " b")
    ]


def test_models_are_listed_by_name(answerer: HttpAnswerer, script: Script) -> None:
    script.replies = [status(503), reply({"data": [{"id": "demo"}, {"id": "demo@facts"}]})]
    assert answerer.model_names() == ("demo", "demo@facts")


def test_the_key_travels_as_a_bearer_token(url: str, script: Script) -> None:
    with HttpAnswerer(f"{url}/v1/", api_key="hk_secret", patience=QUICK) as answerer:
        answerer.ask(question())
    assert script.calls[0].headers["authorization"] == "Bearer hk_secret"
    assert script.calls[0].path == "/v1/completions"


@pytest.mark.parametrize(
    ("url", "key", "code"),
    [
        ("127.0.0.1:8000", None, "invalid_url"),
        ("ftp://127.0.0.1", None, "invalid_url"),
        ("http://", None, "invalid_url"),
        ("http://[::1", None, "invalid_url"),
        ("http://127.0.0.1:99999", None, "invalid_url"),
        ("http://user@127.0.0.1", None, "invalid_url"),
        ("http://gpu1.internal:8000", "hk_secret", "insecure_channel"),
    ],
)
def test_addresses_that_are_none_and_keys_in_clear_text_are_refused(url: str, key: str | None, code: str) -> None:
    with pytest.raises(HorenError) as caught:
        HttpAnswerer(url, api_key=key)
    assert caught.value.code == code
    assert "hk_secret" not in caught.value.message


def test_closing_ends_the_waiting_for_a_next_attempt(url: str, script: Script) -> None:
    script.otherwise = status(503)
    answerer = HttpAnswerer(url, patience=Patience(first_wait_s=3600.0, longest_wait_s=3600.0))
    failures: list[HorenError] = []

    def ask() -> Answer | None:
        try:
            return answerer.ask(question())
        except HorenError as exc:
            failures.append(exc)
            return None

    thread = threading.Thread(target=ask)
    thread.start()
    while not script.calls:
        thread.join(0.01)
    answerer.close()
    thread.join(30)
    assert [failure.code for failure in failures] == ["server_unavailable"]


def test_the_revision_is_read_from_the_choice(answerer: HttpAnswerer, script: Script) -> None:
    decision = {"edit_id": None, "score": 0.1, "revision": 7}
    script.replies = [lambda handler, body: handler.answer(completion(body, horen=decision))]
    assert answerer.ask(question(model="demo@facts")).revision == 7
    assert answerer.ask(question()).revision is None


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(status(500), id="500"),
        pytest.param(lambda handler, body: handler.answer(completion(body, finish_reason="tool_calls")), id="reason"),
    ],
)
def test_a_question_that_always_fails_is_told_apart_from_a_server_that_is_down(
    answerer: HttpAnswerer, script: Script, fault: Reply, chat: bool
) -> None:
    usual = script.otherwise
    script.otherwise = lambda handler, body: (usual if "Hello" in str(body) else fault)(handler, body)
    with pytest.raises(Unavailable) as caught:
        answerer.ask(question("poison", chat=chat, model="demo"))
    assert caught.value.code == "question_unanswered"
    # Once more after it was seen that another one is answered, and then that is looked at again.
    asked = ["poison"] * QUICK.attempts + ["Hello", "poison", "Hello"]
    assert [said for call in script.calls for said in ("poison", "Hello") if said in str(call.body)] == asked
    assert {call.body["max_tokens"] for call in script.calls if "Hello" in str(call.body)} == {1}


def test_a_server_that_comes_back_just_then_answers_the_question(answerer: HttpAnswerer, script: Script) -> None:
    script.replies = [status(503)] * QUICK.attempts
    assert answerer.ask(question("abc")).text == "cba"


def test_a_server_that_goes_away_again_is_unavailable(answerer: HttpAnswerer, script: Script) -> None:
    usual = script.otherwise
    script.replies = [*[status(503)] * QUICK.attempts, usual]
    script.otherwise = status(503)
    with pytest.raises(Unavailable) as caught:
        answerer.ask(question("abc"))
    assert caught.value.code == "server_unavailable"
