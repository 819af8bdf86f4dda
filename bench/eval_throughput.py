"""What asking for an evaluation costs: `answer_all` against a plain load generator on the same server.

One `horen up` of the demo model with a codebook of some edits. Both ask the same questions with as many in flight: the
one reads, scores and stores every answer as a run does, against the base model's answer to the same question, the other
looks at the status alone. That one is asyncio with aiohttp, as in vLLM's own benchmark client. They run in turn, in
pairs whose order alternates, in one process of their own.

A quarter of the questions each is the paper's (edits and locality), strict, of a passage with ROUGE and BLEU, and about
what fires. Continuations are left out: 200 tokens of the server's time would hide what scoring costs.

The goal is 0.8 of the plain generator's rate. It is met where the whole 95 % interval is above it, but for 0.01.

    python -m bench.eval_throughput --out bench/results/eval_throughput.json
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final

import aiohttp
import numpy as np
import typer
from rich.console import Console

from bench.provenance import provenance, write_result
from bench.serving_latency import prepare
from horen_vllm.cli.demo_choice import Choice, choose
from horen_vllm.cli.stack import Stack, StackSettings
from horen_vllm.control.client import HorenClient
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.evals.asking.http import HttpAnswerer
from horen_vllm.evals.asking.running import answer_all
from horen_vllm.evals.asking.store import RecordStore
from horen_vllm.evals.asking.tokenizer import check_tokenizer
from horen_vllm.evals.questions.drafts import BASE, Arm, Draft, TokenIds
from horen_vllm.evals.records import Message, Protocol, Question, QuestionKind
from horen_vllm.evals.running.judge import Judge

BOOK: Final = "latency"
"""What `serving_latency.prepare` makes."""
GOAL: Final = 0.8
TOLERANCE: Final = 0.01
LEAST_ROUNDS: Final = 10
FORMS: Final = 4
_TOKENS: Final = 16
_WARM_UP: Final = 64
_PASSAGE_FACTS: Final = 8
_RESAMPLES: Final = 10_000


def questions_for(model: str, count: int, token_ids: TokenIds) -> list[Question]:
    """Return questions to the base model, and the same ones to the codebook behind them: `count` in all.

    Raises
    ------
    ValueError
        When they are too few for one of each form.
    """
    each = count // (2 * FORMS)
    if not each:
        raise ValueError(
            f"{count} questions are fewer than {2 * FORMS}: one of each form to the base and the codebook."
        )
    choices = choose(each, seed=3)
    passage = " ".join(f"{choice.prompt} {choice.target}." for choice in choose(_PASSAGE_FACTS, seed=4))
    drafts = [draft for place, choice in enumerate(choices) for draft in _drafts(place, choice, passage, token_ids)]
    arms = (Arm(name=BASE, model=model), 0), (Arm(name="cosine", model=f"{model}@{BOOK}"), each)
    return [draft.question(*whom) for whom in arms for draft in drafts]


def _drafts(place: int, choice: Choice, passage: str, token_ids: TokenIds) -> Iterator[Draft]:
    """Yield one question of each form, the paper's of edits and of locality in turn."""
    case: dict[str, Any] = {"case_id": str(choice.fact_id), "position": place}
    length = len(token_ids(f" {choice.target}"))
    kind, asked = (QuestionKind.UNRELATED, choice.unrelated) if place % 2 else (QuestionKind.EDIT, choice.prompt)
    yield Draft(protocol=Protocol.PAPER, kind=kind, prompt=asked, max_tokens=length, targets=(choice.target,), **case)
    for protocol, kind, text, targets in (
        (Protocol.STRICT, QuestionKind.REPHRASE, choice.paraphrase, (choice.target,)),
        (Protocol.PASSAGE, QuestionKind.EDIT, choice.prompt, (passage,)),
        (Protocol.FIRE, QuestionKind.UNRELATED, choice.unrelated, ()),
    ):
        messages = (Message(role="user", content=text),)
        yield Draft(protocol=protocol, kind=kind, messages=messages, max_tokens=_TOKENS, targets=targets, **case)


def evaluate(url: str, questions: Sequence[Question], concurrency: int, token_ids: TokenIds) -> float:
    """Ask, score and store all questions as a run does; return how many were answered a second."""
    judge = Judge(lru_cache(maxsize=None)(token_ids))
    with (
        tempfile.TemporaryDirectory() as folder,
        HttpAnswerer(url) as answerer,
        RecordStore(Path(folder) / "records.jsonl") as store,
    ):
        began = time.perf_counter()
        asked = answer_all(
            answerer,
            questions,
            store,
            lambda question, answer: judge.record(question, answer, {}),
            concurrency=concurrency,
        )
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


def measure(url: str, model: str, count: int, rounds: int, concurrency: int) -> dict[str, Any]:
    """Return the rates of both, pair by pair, and what the evaluation reaches of the generator's."""
    with HttpAnswerer(url) as answerer:
        token_ids = check_tokenizer(answerer, demo_model_dir()).token_ids
    questions = questions_for(model, count, token_ids)
    sides: dict[str, Callable[[Sequence[Question]], float]] = {
        "evaluate": lambda asked: evaluate(url, asked, concurrency, token_ids),
        "generate": lambda asked: generate(url, asked, concurrency),
    }
    for ask in sides.values():
        ask(questions[:: -(-count // _WARM_UP)])
    pairs: list[dict[str, float]] = []
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        rates = {name: sides[name](questions) for name in order}
        pairs.append({**rates, "share": rates["evaluate"] / rates["generate"]})
    return compared(pairs)


def compared(pairs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return mean rates, the mean share with its interval (bootstrap over pairs), and whether that meets the goal."""
    shares = np.array([pair["share"] for pair in pairs])
    drawn = np.random.default_rng(0).choice(shares, (_RESAMPLES, len(pairs))).mean(axis=1)
    low, high = (float(np.percentile(drawn, at)) for at in (2.5, 97.5))
    return {
        "evaluate_a_second": round(float(np.mean([pair["evaluate"] for pair in pairs])), 1),
        "generate_a_second": round(float(np.mean([pair["generate"] for pair in pairs])), 1),
        "share": round(float(shares.mean()), 3),
        "share_interval_95": [round(low, 3), round(high, 3)],
        "met": low >= GOAL - TOLERANCE,
        "pairs": [{name: round(value, 3) for name, value in pair.items()} for pair in pairs],
    }


def main(
    *,
    count: Annotated[
        int, typer.Option("--questions", min=2 * FORMS, help="Questions of a round, half of them to the base model.")
    ] = 640,
    rounds: Annotated[int, typer.Option(min=LEAST_ROUNDS, help="Pairs of runs.")] = 12,
    concurrency: Annotated[list[int] | None, typer.Option(help="Requests in flight; repeat for several.")] = None,
    edits: Annotated[int, typer.Option(help="Edits of the codebook.")] = 10,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/eval_throughput.json"),
) -> None:
    """Measure and write the result."""
    console = Console()
    settings = {"questions": count, "rounds": rounds, "edits": edits, "max_tokens": _TOKENS}
    goal = {"share": GOAL, "tolerance": TOLERANCE, "of": "the interval's lower end"}
    result: dict[str, Any] = {**provenance(), "settings": settings, "goal": goal, "concurrency": {}}
    with tempfile.TemporaryDirectory() as home, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        stack_settings = StackSettings(model=demo_model_dir(), home=Path(home), port=0, control_port=0)
        with Stack(stack_settings) as stack, HorenClient(stack.control_address) as client:
            prepare(client, edits)
            for flight in concurrency or [16, 64]:
                found = pool.submit(measure, stack.base_url, stack.model_name, count, rounds, flight).result()
                result["concurrency"][str(flight)] = found
                console.print(flight, {name: value for name, value in found.items() if name != "pairs"})
    result["met"] = all(found["met"] for found in result["concurrency"].values())
    write_result(out, result)


if __name__ == "__main__":
    typer.run(main)
