"""Decisions in JSON bodies and in streams, however the server cuts them into messages."""

import asyncio
import json
import random
from typing import Any

import pytest

from horen_vllm.serving.decisions import DecisionSink
from horen_vllm.serving.responses import ResponseWriter
from tests.unit.serving.doubles import Sender, events_of, public, sse

JSON = b"application/json"
STREAM = b"text/event-stream; charset=utf-8"


def write(parts: list[bytes], content_type: bytes = JSON, **by_choice: Any) -> Sender:
    """Send a response in parts through a writer whose sink holds `by_choice` (``c0=...``)."""
    sink = DecisionSink("base@facts", by_choice={int(name[1:]): value for name, value in by_choice.items()})
    sender = Sender()

    async def send() -> None:
        writer = ResponseWriter(sender, sink)
        length = str(sum(map(len, parts))).encode()
        headers = [(b"content-type", content_type), (b"x-request-id", b"7"), (b"content-length", length)]
        await writer({"type": "http.response.start", "status": 200, "headers": headers})
        for index, part in enumerate(parts):
            more = index + 1 < len(parts)
            await writer({"type": "http.response.body", "body": part, "more_body": more})

    asyncio.run(send())
    return sender


def body(*indexes: int) -> bytes:
    return json.dumps({"id": "ü", "choices": [{"index": index, "text": "t"} for index in indexes]}).encode()


@pytest.mark.parametrize("content_type", [JSON, b"Application/JSON; charset=utf-8"])
@pytest.mark.parametrize("cut", [0, 1, 9])
def test_each_choice_of_a_json_body_gets_its_own_decision(content_type: bytes, cut: int) -> None:
    content = body(1, 0, 2)
    sender = write([content[:cut], content[cut:]], content_type, c0=public(), c1=public(edit_id=None))
    choices = json.loads(sender.content)["choices"]
    assert [choice.get("horen") for choice in choices] == [public(edit_id=None), public(), None]
    assert json.loads(sender.content)["id"] == "ü"
    assert sender.headers[b"content-length"] == str(len(sender.content)).encode()
    assert sender.headers[b"x-request-id"] == b"7"
    assert len(sender.messages) == 2


def test_a_json_body_without_decisions_passes_byte_for_byte() -> None:
    content = b'{ "error":   {"code": 404} }'
    sender = write([content[:5], content[5:]])
    assert sender.content == content
    assert sender.headers[b"content-length"] == str(len(content)).encode()


@pytest.mark.parametrize("content", [b'{"error": {"code": 400}}', b'{"choices": null}'])
def test_a_json_body_without_choices_is_left_as_it_is(content: bytes) -> None:
    assert json.loads(write([content], c0=public()).content) == json.loads(content)


def test_a_body_that_is_neither_json_nor_a_stream_passes_untouched() -> None:
    sender = write([b"plain ", b"text"], b"text/plain", c0=public())
    assert sender.bodies == [b"plain ", b"text"]


def chunk(index: int, finish: str | None = None) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": index, "text": "é", "finish_reason": finish}]}


STREAMED = [
    chunk(0),
    chunk(1),
    chunk(1, "stop"),
    chunk(0),
    {"id": "x", "choices": [chunk(0, "length")["choices"][0], chunk(2)["choices"][0]]},
    {"id": "x", "choices": [], "usage": {"total_tokens": 5}},
    b"[DONE]",
]
DECIDED = {"c0": public(), "c1": public(edit_id=None)}


def check_stream(sender: Sender) -> None:
    events = events_of(sender.content)
    assert events[-1] == b"[DONE]"
    assert events[2]["choices"][0].pop("horen") == public(edit_id=None)
    assert events[4]["choices"][0].pop("horen") == public()
    assert events == STREAMED


def test_a_streams_last_chunk_of_each_choice_gets_its_decision() -> None:
    parts = [sse(event) for event in STREAMED]
    sender = write(parts, STREAM, **DECIDED)
    check_stream(sender)
    assert len(sender.bodies) == len(parts)


@pytest.mark.parametrize("seed", range(12))
def test_a_stream_may_be_cut_anywhere(seed: int) -> None:
    generator, content = random.Random(seed), sse(*STREAMED)
    cuts = sorted(generator.sample(range(1, len(content)), generator.choice([1, 3, 20, len(content) - 1])))
    parts = [content[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    sender = write(parts, STREAM, **DECIDED)
    check_stream(sender)
    assert sender.messages[-1]["more_body"] is False


def test_a_whole_event_is_not_held_back_by_the_part_after_it() -> None:
    sender = write([sse(chunk(0)) + b"data: {", b"}\n\n"], STREAM, **DECIDED)
    assert sender.bodies == [sse(chunk(0)), b"data: {}\n\n"]


def test_a_stream_that_breaks_off_passes_on_what_came() -> None:
    sender = write([sse(chunk(0)), b'data: {"choices"', b""], STREAM)
    assert sender.content == sse(chunk(0)) + b'data: {"choices"'


def test_an_early_decision_waits_for_its_choices_end_and_no_other_chunk_is_rewritten() -> None:
    said = {"id": "x", "choices": [{"index": 0, "text": '"finish_reason":"stop"', "finish_reason": None}]}
    both = {"id": "x", "choices": [chunk(0, "length")["choices"][0], chunk(1)["choices"][0]]}
    sender = write([sse(said), sse(both)], STREAM, **DECIDED)
    # Written with spaces, which a chunk that was parsed would have lost.
    assert sender.bodies[0] == sse(said)
    assert ["horen" in choice for choice in events_of(sender.bodies[1])[0]["choices"]] == [True, False]


def test_a_stream_that_breaks_off_in_its_last_event_passes_on_what_came() -> None:
    cut = b'data: {"choices": [{"index": 0, "finish_reason": "st'
    assert write([sse(chunk(0)), cut, b""], STREAM, **DECIDED).content == sse(chunk(0)) + cut


@pytest.mark.parametrize("part", [b": ping\n\n", b"event: error\ndata: {}\n\n", b'data: {"choices": null}\n\n'])
def test_other_events_pass_byte_for_byte(part: bytes) -> None:
    noise = part + b'data: {"finish_reason": 1}\n\n'
    assert write([noise, noise], STREAM, **DECIDED).content == noise + noise


def test_a_stream_without_decisions_passes_byte_for_byte() -> None:
    content = sse(*STREAMED)
    assert write([content], STREAM).content == content
