"""A plain load generator: completions in a closed loop or at a rate, with aiohttp as in vLLM's own client."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing import get_context
from typing import Final

import aiohttp

CONCURRENCY: Final = 16
TOKENS: Final = 16
_WARM_S: Final = 3.0
"""In which the load's process starts."""
_PROMPTS: Final = tuple(f"Tell me about the town number {number}." for number in range(64))


def drive(base_url: str, model: str, seconds: float, rate: float | None) -> int:
    """Ask `rate` completions a second (None: as many as go through) for some seconds; return how many were answered."""
    return asyncio.run(_drive(base_url, model, seconds, rate))


async def _drive(base_url: str, model: str, seconds: float, rate: float | None) -> int:
    began = time.monotonic()
    asked = count()

    async def ask_on() -> int:
        answered = 0
        for number in asked:
            due = began + number / rate if rate else began
            if max(due, time.monotonic()) >= began + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            question = {"model": model, "prompt": _PROMPTS[number % len(_PROMPTS)], "max_tokens": TOKENS}
            async with http.post("/v1/completions", json={**question, "temperature": 0.0}) as response:
                response.raise_for_status()
                await response.read()
            answered += 1
        return answered

    async with aiohttp.ClientSession(base_url, connector=aiohttp.TCPConnector(limit=0)) as http:
        return sum(await asyncio.gather(*(ask_on() for _ in range(CONCURRENCY))))


@contextmanager
def load(base_url: str, model: str, rate: float) -> Iterator[None]:
    """Keep the server busy within the block, from a process of its own."""
    process = get_context("spawn").Process(target=drive, args=(base_url, model, 3600.0, rate), daemon=True)
    process.start()
    time.sleep(_WARM_S)
    try:
        yield
        if not process.is_alive():
            raise RuntimeError("the load ended before the trials did.")
    finally:
        process.terminate()
        process.join()
