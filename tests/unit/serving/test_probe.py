"""Probes: the edit must fire on its own prompt and give its own tokens, asked as a client would ask."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.core.presets import MethodParameters, SpanMode
from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.tag import RequestTag, tag_of
from horen_vllm.serving import probe as probe_module
from horen_vllm.serving.probe import Greedy, Prober, engine_ask
from horen_vllm.serving.state import Probe
from tests.unit.serving.doubles import decision, name_of

PARAMETERS = MethodParameters(preset="cosine", threshold=0.9, window_ratio=0.25)
PROBE = Probe(edit_id="e1", prompt_ids=(1, 7, 8), target_ids=(5, 6))
FIRED = {**decision(), "threshold": 0.9}


def failure(answer: Greedy | Exception, parameters: MethodParameters = PARAMETERS) -> tuple[str | None, list[Any]]:
    asked: list[Any] = []

    async def ask(prompt_ids: list[int], tokens: int, tag: RequestTag) -> Greedy:
        asked.append((prompt_ids, tokens, tag))
        if isinstance(answer, Exception):
            raise answer
        return answer

    return asyncio.run(Prober(ask, bos_id=1).failure(name_of("facts"), parameters, PROBE)), asked


def test_a_probe_asks_for_the_targets_tokens_through_the_codebook() -> None:
    reason, asked = failure(Greedy((5, 6), FIRED))
    assert reason is None
    assert asked == [([1, 7, 8], 2, RequestTag(str(name_of("facts")), 0.25))]


def test_the_span_is_the_one_that_a_completion_has() -> None:
    _, [(_, _, tag)] = failure(Greedy((5, 6), FIRED), replace(PARAMETERS, span=SpanMode.CONTENT))
    assert tag.span == (1, 3), "without BOS"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Greedy((5, 6), None), "not routed"),
        (Greedy((5, 6), {**FIRED, "edit_id": None}), "no edit fired: the best score is 0.97, the threshold 0.9"),
        (Greedy((5, 6), {**FIRED, "edit_id": "e2"}), "edit e2 fired instead"),
        (Greedy((5, 7), FIRED), r"\[5, 7\], the target's \[5, 6\]"),
        (Greedy((5,), FIRED), r"\[5\]"),
        (ValueError("the prompt is too long"), "refused the prompt: the prompt is too long"),
        (FailedPrecondition("no.", code="unsupported_tokenizer"), "refused the prompt: no"),
    ],
)
def test_anything_else_is_a_failure_that_says_what_happened(answer: Greedy | Exception, words: str) -> None:
    reason, _ = failure(answer)
    assert reason is not None
    assert re.search(words, reason)


def test_an_engine_that_does_not_answer_fails_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "TIMEOUT_S", 0.01)

    async def ask(*_: Any) -> Greedy:
        await asyncio.Event().wait()
        raise AssertionError

    reason = asyncio.run(Prober(ask, bos_id=None).failure(name_of("facts"), PARAMETERS, PROBE))
    assert reason is not None
    assert "did not answer" in reason


def test_vllm_is_asked_greedily_with_the_tag() -> None:
    calls: list[Any] = []

    async def generate(prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        calls.append((prompt, params, request_id))
        yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[5, 6], horen=FIRED)])

    tag = RequestTag(str(name_of("facts")), 0.25, (1, 3))

    async def script() -> Greedy:
        return await engine_ask(generate)([1, 7, 8], 2, tag)

    assert asyncio.run(script()) == Greedy((5, 6), FIRED)
    [(prompt, params, request_id)] = calls
    assert prompt == {"prompt_token_ids": [1, 7, 8]}
    assert (params.temperature, params.max_tokens, tag_of(params)) == (0.0, 2, tag)
    assert request_id.startswith("horen-probe-")
