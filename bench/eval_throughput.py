"""What asking for an evaluation costs: `answer_all` against a plain load generator on the same server.

One `horen up` of the demo model with a codebook of some edits. Both ask the same questions with as many in flight: the
one reads, scores and stores every answer, the other looks at the status alone. That one is asyncio with aiohttp, as in
vLLM's own benchmark client. They run in turn, in pairs whose order alternates, in one process of their own; the goal is
at least 0.8 of the plain generator's rate.

    python -m bench.eval_throughput --out bench/results/eval_throughput.json
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final

import aiohttp
import numpy as np
import typer
from rich.console import Console

from bench.provenance import provenance, write_result
from bench.serving_latency import prepare
from horen_vllm.cli.demo_choice import choose
from horen_vllm.cli.stack import Stack, StackSettings
from horen_vllm.control.client import HorenClient
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.evals.asking.http import HttpAnswerer
from horen_vllm.evals.asking.running import answer_all
from horen_vllm.evals.asking.store import RecordStore
from horen_vllm.evals.records import Answer, Message, Protocol, Question, QuestionKind, Record
from horen_vllm.evals.scoring import score

BOOK: Final = "latency"
"""What `serving_latency.prepare` makes."""
GOAL: Final = 0.8
_TOKENS: Final = 16
_WARM_UP: Final = 64


def questions_for(models: Sequence[str], count: int) -> list[Question]:
    """Return questions to the models in turn, every second one a chat with as many tokens as it likes."""
    prompts = [text for choice in choose(count, seed=3) for text in (choice.prompt, choice.paraphrase)]
    return [
        Question(
            question_id=f"q{number}",
            arm="cosine",
            model=models[number // 2 % len(models)],
            checkpoint=0,
            protocol=Protocol.STRICT,
            kind=QuestionKind.EDIT,
            prompt=None if number % 2 else prompt,
            messages=(Message(role="user", content=prompt),) if number % 2 else (),
            max_tokens=_TOKENS,
            targets=("nothing",),
        )
        for number, prompt in enumerate(prompts[:count])
    ]


def evaluate(url: str, questions: Sequence[Question], concurrency: int) -> float:
    """Ask, score and store all questions; return how many were answered a second."""

    def record(question: Question, answer: Answer) -> Record:
        return Record(question=question, answer=answer, metrics=score(question, answer))

    with (
        tempfile.TemporaryDirectory() as folder,
        HttpAnswerer(url) as answerer,
        RecordStore(Path(folder) / "records.jsonl") as store,
    ):
        began = time.perf_counter()
        asked = answer_all(answerer, questions, store, record, concurrency=concurrency)
        seconds = time.perf_counter() - began
    if asked.answered != len(questions):
        raise RuntimeError(f"{asked.answered} of {len(questions)} questions were answered.")
    return len(questions) / seconds


def generate(url: str, questions: Sequence[Question], concurrency: int) -> float:
    """Send the same requests and look at nothing but their status; return how many were answered a second."""
    return asyncio.run(_generate(url, [_request(question) for question in questions], concurrency))


def _request(question: Question) -> tuple[str, dict[str, Any]]:
    common = {"model": question.model, "max_tokens": question.max_tokens, "temperature": 0.0, "return_token_ids": True}
    if question.messages:
        messages = [{"role": message.role, "content": message.content} for message in question.messages]
        return "/v1/chat/completions", {"messages": messages, **common}
    return "/v1/completions", {"prompt": question.prompt, **common}


async def _generate(url: str, requests: Sequence[tuple[str, dict[str, Any]]], concurrency: int) -> float:
    left = iter(requests)

    async def ask_on() -> None:
        for path, body in left:
            async with http.post(path, json=body) as response:
                response.raise_for_status()
                await response.read()

    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as http:
        began = time.perf_counter()
        await asyncio.gather(*(ask_on() for _ in range(concurrency)))
        return len(requests) / (time.perf_counter() - began)


def measure(url: str, models: Sequence[str], count: int, rounds: int, concurrency: int) -> dict[str, Any]:
    """Return the rates of both, pair by pair, and what the evaluation reaches of the generator's."""
    questions = questions_for(models, count)
    for warm in (evaluate, generate):
        warm(url, questions[:_WARM_UP], concurrency)
    pairs: list[dict[str, float]] = []
    for number in range(rounds):
        order = (evaluate, generate) if number % 2 == 0 else (generate, evaluate)
        rates = {ask.__name__: ask(url, questions, concurrency) for ask in order}
        pairs.append({**rates, "share": rates["evaluate"] / rates["generate"]})
    shares = np.array([pair["share"] for pair in pairs])
    drawn = np.random.default_rng(0).choice(shares, (10_000, rounds)).mean(axis=1)
    return {
        "evaluate_a_second": round(float(np.mean([pair["evaluate"] for pair in pairs])), 1),
        "generate_a_second": round(float(np.mean([pair["generate"] for pair in pairs])), 1),
        "share": round(float(shares.mean()), 3),
        "share_interval_95": [round(float(np.percentile(drawn, at)), 3) for at in (2.5, 97.5)],
        "pairs": [{name: round(value, 3) for name, value in pair.items()} for pair in pairs],
    }


def main(
    *,
    count: Annotated[int, typer.Option("--questions", help="Questions of a round.")] = 600,
    rounds: Annotated[int, typer.Option(help="Pairs of runs.")] = 10,
    concurrency: Annotated[list[int] | None, typer.Option(help="Requests in flight; repeat for several.")] = None,
    edits: Annotated[int, typer.Option(help="Edits of the codebook.")] = 10,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/eval_throughput.json"),
) -> None:
    """Measure and write the result."""
    console = Console()
    settings = {"questions": count, "rounds": rounds, "edits": edits, "max_tokens": _TOKENS}
    result: dict[str, Any] = {**provenance(), "settings": settings, "goal": GOAL, "concurrency": {}}
    with tempfile.TemporaryDirectory() as home, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        stack_settings = StackSettings(model=demo_model_dir(), home=Path(home), port=0, control_port=0)
        with Stack(stack_settings) as stack, HorenClient(stack.control_address) as client:
            prepare(client, edits)
            models = (stack.model_name, f"{stack.model_name}@{BOOK}")
            for flight in concurrency or [16, 64]:
                found = pool.submit(measure, stack.base_url, models, count, rounds, flight).result()
                result["concurrency"][str(flight)] = found
                console.print(flight, {name: value for name, value in found.items() if name != "pairs"})
    result["passed"] = all(found["share"] >= GOAL for found in result["concurrency"].values())
    write_result(out, result)


if __name__ == "__main__":
    typer.run(main)
