"""The real ``openai`` client reads what the response writer adds to recorded answers of vLLM, and misses nothing."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, OpenAI

from tests.unit.serving.replay import RECORDED, Replay, decision_of, indexes_of, serving

WHOLE = sorted(name for name in RECORDED if "stream" not in name)
STREAMS = sorted(name for name in RECORDED if "stream" in name and "error" not in name)


@pytest.fixture(scope="module")
def replay() -> Replay:
    return Replay()


@pytest.fixture(scope="module")
def url(replay: Replay) -> Iterator[str]:
    with serving(replay) as base:
        yield f"{base}/v1"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key="unused", max_retries=0) as made:
        yield made


def call(client: Any, name: str, **extra: Any) -> Any:
    """Send a recorded request, or make the coroutine that does."""
    request = {**RECORDED[name]["request"], "model": "base@facts", "extra_body": {"shape": name, **extra}}
    resource = client.chat.completions if "messages" in request else client.completions
    return resource.create(**request)


def finished_choices(name: str) -> dict[int, Any]:
    return {
        index: decision_of(index)
        for part in RECORDED[name]["parts"]
        if '"finish_reason":"' in part
        for index in indexes_of(part)
    }


def check_stream(chunks: list[Any], name: str) -> None:
    """Each choice's finished chunk, and no other, carries its decision; otherwise nothing has changed."""
    events = [part.removeprefix("data: ") for part in RECORDED[name]["parts"] if "[DONE]" not in part]
    told: dict[int, Any] = {}
    for chunk, event in zip(chunks, events, strict=True):
        read = chunk.to_dict(warnings=False)
        for choice, seen in zip(chunk.choices, read["choices"], strict=True):
            assert hasattr(choice, "horen") == (choice.finish_reason is not None)
            if "horen" in seen:
                told[choice.index] = seen.pop("horen")
        assert read == json.loads(event)
    assert told == finished_choices(name) != {}


def check_whole(answer: Any, name: str) -> None:
    read = answer.to_dict(warnings=False)
    for choice, seen in zip(answer.choices, read["choices"], strict=True):
        assert choice.horen == seen.pop("horen") == decision_of(choice.index)
    assert read == json.loads(RECORDED[name]["parts"][0])


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_is_the_servers_own_with_a_decision_in_every_choice(client: OpenAI, name: str) -> None:
    check_whole(call(client, name), name)


@pytest.mark.parametrize("early", [False, True], ids=["decided-at-the-end", "decided-at-the-start"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_the_servers_own_with_a_decision_at_each_choices_end(
    client: OpenAI, name: str, early: bool
) -> None:
    check_stream(list(call(client, name, early=early)), name)


def test_the_asynchronous_client_reads_the_same(url: str) -> None:
    async def all_at_once() -> list[Any]:
        async with AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
            return await asyncio.gather(*(read(client, name) for name in WHOLE + STREAMS))

    async def read(client: AsyncOpenAI, name: str) -> Any:
        answer = await call(client, name)
        return answer if name in WHOLE else [chunk async for chunk in answer]

    for name, answer in zip(WHOLE + STREAMS, asyncio.run(all_at_once()), strict=True):
        (check_whole if name in WHOLE else check_stream)(answer, name)


def test_an_error_inside_a_stream_reaches_the_client(client: OpenAI) -> None:
    with pytest.raises(APIError):
        list(call(client, "completion-stream-error", early=True))


def test_the_first_chunk_arrives_while_the_rest_is_still_to_come(client: OpenAI, replay: Replay) -> None:
    with call(client, "chat-stream", early=True, cut=True) as stream:
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        assert not replay.left.is_set()
    assert replay.left.wait(5)
