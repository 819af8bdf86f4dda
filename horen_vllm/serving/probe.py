"""Probes: a replica asks its own engine an edit's prompt before it says that it serves the edit."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import HorenError
from horen_vllm.ids import CodebookName
from horen_vllm.plugin.tag import RequestTag
from horen_vllm.serving.spans import RequestSpan
from horen_vllm.serving.state import Probe

TIMEOUT_S: Final = 60.0
"""Seconds that one probe may wait behind other requests and run."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Greedy:
    """What the engine answered."""

    token_ids: tuple[int, ...]
    decision: dict[str, Any] | None
    """The decision report; None when the request was not routed."""


Ask = Callable[[list[int], int, RequestTag], Awaitable[Greedy]]
"""Answers (prompt ids, number of tokens, tag) by greedy decoding."""


class Prober:
    """Asks the engine what edits should answer.

    Parameters
    ----------
    ask
        The engine.
    bos_id
        The tokenizer's BOS token, which is no part of some codebooks' query spans.
    """

    def __init__(self, ask: Ask, *, bos_id: int | None) -> None:
        self._ask = ask
        self._bos_id = bos_id

    async def failure(self, name: CodebookName, parameters: MethodParameters, probe: Probe) -> str | None:
        """Ask one probe; return None when the edit fired and gave its target, else one sentence of what happened."""
        prompt_ids = list(probe.prompt_ids)
        try:
            # The function that the completions route uses, so that a probe asks what a client would.
            span = RequestSpan(mode=parameters.span).of({"prompt_token_ids": prompt_ids}, self._bos_id)
            tag = RequestTag(str(name), parameters.window_ratio, span)
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._ask(prompt_ids, len(probe.target_ids), tag)
        except TimeoutError:
            return f"the engine did not answer within {TIMEOUT_S:g} s."
        except (HorenError, ValueError) as error:
            return f"the engine refused the prompt: {error}"
        except Exception as error:
            log.exception("probe failed unexpectedly", codebook=str(name), edit=probe.edit_id)
            return f"the engine failed with {type(error).__name__}."
        return _judged(answer, probe)


def _judged(answer: Greedy, probe: Probe) -> str | None:
    decision = answer.decision
    if decision is None:
        return "the request was not routed."
    if decision["edit_id"] is None:
        score, threshold = decision["score"], decision["threshold"]
        return f"no edit fired: the best score is {score}, the threshold {threshold}."
    if decision["edit_id"] != probe.edit_id:
        return f"edit {decision['edit_id']} fired instead."
    if answer.token_ids != probe.target_ids:
        return f"the answer's tokens are {list(answer.token_ids)}, the target's {list(probe.target_ids)}."
    return None


def engine_ask(generate: Callable[..., AsyncIterator[Any]]) -> Ask:
    """Return an `Ask` through vLLM's `generate`, which must not be the one that hands decisions to HTTP requests."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams  # noqa: PLC0415 - costs seconds

    async def ask(prompt_ids: list[int], tokens: int, tag: RequestTag) -> Greedy:
        params = SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=tag.to_extra_args(),
        )
        request_id = f"horen-probe-{uuid.uuid4().hex}"
        answer = Greedy((), None)
        async for output in generate({"prompt_token_ids": prompt_ids}, params, request_id):
            [choice] = output.outputs
            answer = Greedy(tuple(choice.token_ids), choice.horen)
        return answer

    return ask
