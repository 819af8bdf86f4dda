"""Rounds of requests against a server, timed by the functions of vLLM's own benchmark client."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import aiohttp
import numpy as np
from vllm.benchmarks.lib.endpoint_request_func import (
    RequestFuncInput,
    RequestFuncOutput,
    async_request_openai_chat_completions,
    async_request_openai_completions,
)

from bench.serving_workloads import Prompt, Workload


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured.

    Attributes
    ----------
    tokens
        Answered tokens a second, over all requests of the round.
    ttft_p50_ms, ttft_p99_ms
        Time to the first token.
    tpot_p50_ms, tpot_p99_ms
        Time a further token, each request's mean.
    """

    tokens: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p99_ms: float

    def rounded(self) -> dict[str, float]:
        """Return the numbers for a result file."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def run_round(url: str, models: Sequence[str], workload: Workload, number: int, concurrency: int, salt: str) -> Round:
    """Ask all requests of a workload, `concurrency` at a time, each of its model.

    Parameters
    ----------
    models
        Whom each request asks.
    number
        Of the round: it decides the prompts.
    salt
        Requests share cached prompt blocks only with those of the same salt.

    Raises
    ------
    RuntimeError
        When a request fails, or a prompt or an answer has not as many tokens as it must have.
    """
    inputs = _inputs(url, models, workload, workload.of_round(number), salt)
    return asyncio.run(_run(inputs, workload, concurrency))


async def _run(asked: Sequence[RequestFuncInput], workload: Workload, concurrency: int) -> Round:
    inputs, ask = iter(asked), async_request_openai_completions
    if workload.is_chat:
        ask = async_request_openai_chat_completions
    outputs: list[RequestFuncOutput] = []

    async def ask_on() -> None:
        for one in inputs:
            output = await ask(one, session)
            if not output.success or (output.prompt_len, output.output_tokens) != (one.prompt_len, one.output_len):
                tokens = f"{output.prompt_len} and {output.output_tokens} tokens"
                raise RuntimeError(f"{one.model}: {tokens}, {output.error}")
            outputs.append(output)

    timeout = aiohttp.ClientTimeout(total=3600)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        began = time.perf_counter()
        await asyncio.gather(*(ask_on() for _ in range(concurrency)))
        seconds = time.perf_counter() - began
    return _summary(outputs, workload, seconds)


def _inputs(
    url: str, models: Sequence[str], workload: Workload, prompts: Sequence[Prompt], salt: str
) -> list[RequestFuncInput]:
    where = "chat/completions" if workload.is_chat else "completions"
    return [
        RequestFuncInput(
            prompt=prompt,
            api_url=f"{url}/v1/{where}",
            prompt_len=len(workload.prompts[0]),
            output_len=workload.answer,
            model=model,
            ignore_eos=True,
            extra_body={"temperature": 0.0, "cache_salt": salt},
        )
        for model, prompt in zip(models, prompts, strict=True)
    ]


def _summary(outputs: Sequence[RequestFuncOutput], workload: Workload, seconds: float) -> Round:
    first_ms = np.array([output.ttft for output in outputs]) * 1e3
    later_ms = np.array([output.latency - output.ttft for output in outputs]) * 1e3 / (workload.answer - 1)
    return Round(
        tokens=len(outputs) * workload.answer / seconds,
        ttft_p50_ms=float(np.percentile(first_ms, 50)),
        ttft_p99_ms=float(np.percentile(first_ms, 99)),
        tpot_p50_ms=float(np.percentile(later_ms, 50)),
        tpot_p99_ms=float(np.percentile(later_ms, 99)),
    )
