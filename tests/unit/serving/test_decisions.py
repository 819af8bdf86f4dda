"""The tap on the engine client: decisions go to the request that asked, tags come from the middleware only."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.core.presets import SpanMode
from horen_vllm.errors import InvalidArgument
from horen_vllm.plugin.tag import RESULT_KEY, SPAN_KEY, RequestTag
from horen_vllm.serving.decisions import DecisionSink, current_sink, tap
from horen_vllm.serving.spans import RequestSpan
from tests.unit.serving.doubles import collect, decision, public


def output(*indexes: int, params: dict[str, Any] | None = None) -> Any:
    return SimpleNamespace(outputs=[SimpleNamespace(index=index) for index in indexes], kv_transfer_params=params)


class Renderer:
    """A renderer whose BOS token is 1."""

    def get_bos_token_id(self) -> int:
        return 1

    async def render_chat_async(self, *_args: Any) -> Any:
        raise NotImplementedError


class Client:
    """An engine client whose requests answer what they are told."""

    def __init__(self, *answers: list[Any]) -> None:
        self.renderer = Renderer()
        self.answers = list(answers)
        self.extra_args: list[Any] = []
        self.options: list[Any] = []

    def generate(self, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        self.extra_args.append(sampling_params.extra_args)
        self.options.append((prompt, args, kwargs))
        return self._stream(self.answers.pop(0))

    async def _stream(self, answer: list[Any]) -> AsyncIterator[Any]:
        for item in answer:
            await asyncio.sleep(0)
            yield item


def models() -> Any:
    return SimpleNamespace(model_name=lambda *_args: "base")


def sampling(n: int = 1, extra: dict[str, Any] | None = None) -> Any:
    return SimpleNamespace(n=n, extra_args=extra)


def fired(edit_id: str, **more: Any) -> dict[str, Any]:
    return {RESULT_KEY: decision(edit_id=edit_id), **more}


def test_decisions_land_by_choice_over_all_prompts() -> None:
    answers = [
        [output(0), output(1, params=fired("a")), output(0, params=fired("b"))],
        [output(0, 1)],
    ]
    for choice in answers[1][0].outputs:
        choice.horen = decision(edit_id="c")
    client, sink = Client(*answers), DecisionSink("base@facts")
    tap(client, models())

    async def call() -> None:
        current_sink.set(sink)
        first = client.generate("p0", sampling(n=2), "id", priority=1)
        second = client.generate("p1", sampling(n=2), "id")
        assert await collect(second) == answers[1]
        assert await collect(first) == answers[0]

    asyncio.run(call())
    assert sink.by_choice == {
        1: public(edit_id="a"),
        0: public(edit_id="b"),
        2: public(edit_id="c"),
        3: public(edit_id="c"),
    }
    assert client.options == [("p0", ("id",), {"priority": 1}), ("p1", ("id",), {})]
    assert all(item.kv_transfer_params is None for answer in answers for item in answer)


def test_other_transfer_parameters_stay_on_the_output() -> None:
    item = output(0, params=fired("a", other=1))
    DecisionSink("m").record(0, 1, item)
    assert item.kv_transfer_params == {"other": 1}


@pytest.mark.parametrize("params", [None, {}, {"other": 1}])
def test_an_output_without_a_decision_is_not_touched(params: dict[str, Any] | None) -> None:
    item, sink = output(0, params=params), DecisionSink("m")
    sink.record(0, 1, item)
    assert item.kv_transfer_params == params
    assert sink.by_choice == {}


def test_a_clean_request_keeps_its_outputs_and_the_models_name() -> None:
    client, names, item = Client([output(0)]), models(), output(0)
    client.answers = [[item]]
    tap(client, names)
    assert asyncio.run(collect(client.generate("p", sampling(extra={"mine": 1})))) == [item]
    assert client.extra_args == [{"mine": 1}]
    assert names.model_name() == "base"


@pytest.mark.parametrize(("more", "left"), [({}, None), ({"mine": 1}, {"mine": 1})])
def test_a_tag_that_the_middleware_did_not_write_is_taken_away(more: dict[str, Any], left: Any) -> None:
    client = Client([])
    tap(client, models())
    forged = RequestTag("tenants/other/codebooks/x", 0.5).to_extra_args()
    asyncio.run(collect(client.generate("p", sampling(extra={**forged, **more}))))
    assert client.extra_args == [left]


def test_a_tag_of_the_middleware_reaches_the_engine() -> None:
    client, tag = Client([]), RequestTag("tenants/default/codebooks/facts", 0.5).to_extra_args()
    tap(client, models())

    async def call() -> None:
        current_sink.set(DecisionSink("base@facts"))
        await collect(client.generate("p", sampling(extra=dict(tag))))

    asyncio.run(call())
    assert client.extra_args == [tag]


def test_of_several_choices_each_has_its_own_decision_only() -> None:
    """The engine's field for the whole output has room for one, and nothing says whose it is."""
    item, sink = output(0, 1, params=fired("whose")), DecisionSink("m")
    item.outputs[1].horen = decision(edit_id="own")
    sink.record(0, 2, item)
    assert sink.by_choice == {1: public(edit_id="own")}


@pytest.mark.parametrize(("mode", "spans"), [(SpanMode.CONTENT, [[1, 3], [0, 2]]), (SpanMode.PROMPT, [None, None])])
def test_each_prompt_of_a_list_carries_its_own_span(mode: SpanMode, spans: list[Any]) -> None:
    client, shared = Client([], []), RequestTag("tenants/default/codebooks/facts", 0.5).to_extra_args()
    tap(client, models())

    async def call() -> None:
        current_sink.set(DecisionSink("base@facts", span=RequestSpan(mode)))
        for prompt_ids in ([1, 7, 8], [7, 8]):
            await collect(client.generate({"prompt_token_ids": prompt_ids}, sampling(extra=shared)))

    asyncio.run(call())
    assert [extra.get(SPAN_KEY) for extra in client.extra_args] == spans
    assert SPAN_KEY not in shared


def test_a_prompt_without_a_span_does_not_reach_the_engine() -> None:
    client = Client([])
    tap(client, models())

    async def call() -> None:
        current_sink.set(DecisionSink("base@facts", span=RequestSpan(SpanMode.CONTENT)))
        client.generate({"prompt_token_ids": [1]}, sampling(extra={}))

    with pytest.raises(InvalidArgument) as caught:
        asyncio.run(call())
    assert caught.value.code == "empty_query_span"
    assert client.extra_args == []


def test_responses_carry_the_name_that_was_asked_for() -> None:
    names = models()
    tap(Client(), names)

    async def call(model: str) -> str:
        current_sink.set(DecisionSink(model))
        await asyncio.sleep(0)
        return str(names.model_name(None))

    async def both() -> tuple[str, str]:
        first, second = await asyncio.gather(call("base@a"), call("base@b"))
        return first, second

    assert asyncio.run(both()) == ("base@a", "base@b")
    assert names.model_name() == "base"
