"""The server against the paper's plain loop: edited tokens a second with 1,000, 10,000 and 50,000 entries, on a CPU.

Both serve one random model of the shape of Qwen2 0.5B in float32, with the paper's rule (raw keys, one refinement step,
one value for the whole answer) and the same entries. The paper's loop is HF transformers' `generate`, batch 1, whose
wrapped layer routes in every forward pass (`bench.paper_serving`). The server is vLLM in one process with the plugin, a
request at a time and 16 at a time: their ratio is what batching is worth. Its prefix cache is off. A round asks all
sides, in an order that turns round, and ratios are taken within a round. Every request must be answered by the entry of
its prompt, and otherwise than by the clean model, or the run fails.

    python -m bench.method --out bench/results/method.json
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from bench.intervals import interval
from bench.memory_accounts import MIB
from bench.method_sides import (
    Answers,
    Book,
    Prompt,
    ask_paper,
    ask_server,
    bring,
    made_book,
    paper_rule,
    require_changed,
)
from bench.paper_serving import PlainServer
from bench.provenance import provenance, quietness, write_result
from bench.random_model import QWEN_HALF_B, Shape, write_random_qwen2
from bench.serving_workloads import load_workload
from bench.smoke_engine import EngineJob, EngineProcess
from horen_vllm.core.architectures import default_site

PAPER, ONE, MANY = "paper", "server_one", "server_many"
"""The paper's loop; the server with one request at a time, and with many."""
RATIOS: Final = {"server_many_to_paper": (MANY, PAPER), "server_one_to_paper": (ONE, PAPER), "batching": (MANY, ONE)}
_TINY: Final = Shape(layers=4, hidden=128, inner=256, heads=2, kv_heads=1, vocabulary=2048, spread=0.3)
_SPARE_MIB: Final = 64


class Size(StrEnum):
    """Which random model is made."""

    HALF_B = "0.5b"
    TINY = "tiny"


def measure(
    sides: dict[str, Callable[[int], Answers]], rounds: int, *, say: Callable[[str], None]
) -> list[dict[str, Answers]]:
    """Return what all sides answered, round by round, without a first one for warming up."""
    found = []
    for number in range(rounds + 1):
        order = list(sides)[:: -1 if number % 2 else 1]
        found.append({name: sides[name](number) for name in order})
        say(", ".join(f"{name} {found[-1][name].rate:.1f}" for name in sides))
    return found[1:]


def summary(rounds: Sequence[dict[str, Answers]]) -> dict[str, Any]:
    """Return rates and ratios of the rounds with 95 % intervals, and what the paper's time is made of.

    `paper_times_its_weights_floor`: its time without routing, in readings of the weights a token. Far above 1,
    something else than the method holds it up, as on a machine whose cores are not free.
    """
    rates = {name: [answers[name].rate for answers in rounds] for name in rounds[0]}
    ratios = {
        name: [answers[above].rate / answers[below].rate for answers in rounds]
        for name, (above, below) in RATIOS.items()
    }
    return {
        "edited_tokens_a_second": {name: _rounded(values) for name, values in rates.items()},
        "ratios": {name: _rounded(values) for name, values in ratios.items()},
        "routing_share_of_paper": round(
            median(answers[PAPER].routing_seconds / answers[PAPER].seconds for answers in rounds), 4
        ),
        "paper_times_its_weights_floor": round(
            median(
                (answers[PAPER].seconds - answers[PAPER].routing_seconds) / answers[PAPER].floor_seconds
                for answers in rounds
            ),
            3,
        ),
        "same_tokens_share": round(median(_same(answers[PAPER], answers[ONE]) for answers in rounds), 4),
        "rounds": [{name: round(answers[name].rate, 3) for name in answers} for answers in rounds],
    }


def _rounded(values: Sequence[float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in interval(values).items()}


def _same(paper: Answers, server: Answers) -> float:
    """Return the share of the tokens that both sides answered alike to the same prompts."""
    pairs = [
        (mine, theirs)
        for first, second in zip(paper.tokens, server.tokens, strict=True)
        for mine, theirs in zip(first, second, strict=True)
    ]
    return sum(mine == theirs for mine, theirs in pairs) / len(pairs)


def sides_of(
    server: PlainServer, engine: EngineProcess, book: Book, prompts: Sequence[Prompt], *, answer: int, requests: int
) -> dict[str, Callable[[int], Answers]]:
    """Return what each side does in a round of some number: `requests` prompts one at a time, or all at once."""

    def some(number: int) -> list[int]:
        return [(number * requests + place) % len(prompts) for place in range(requests)]

    everyone = list(range(len(prompts)))
    return {
        PAPER: lambda number: ask_paper(server, book, prompts, some(number), answer),
        ONE: lambda number: ask_server(engine, book, prompts, some(number), answer, 1),
        MANY: lambda _number: ask_server(engine, book, prompts, everyone, answer, len(prompts)),
    }


def engine_job(folder: Path, site: str, shape: Shape, counts: Sequence[int], *, most: int) -> EngineJob:
    """Return how the server is started, with room for all codebooks."""
    rows = sum(counts)
    budgets = {
        "key_budget_mib": 4 * rows * shape.inner // MIB + _SPARE_MIB,
        "value_budget_mib": 4 * rows * shape.hidden // MIB + _SPARE_MIB,
    }
    options = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": most, "max_model_len": 512}
    options |= {"block_size": 32, "enable_prefix_caching": False, "seed": 0}
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return EngineJob(
        folder, site, folder / "engine.log", options, environment=environment, plugin=budgets, timeout_s=1800.0
    )


def shown(result: dict[str, Any]) -> Table:
    """Return the result as a table."""
    table = Table("entries", *(f"{name} tok/s" for name in (PAPER, ONE, MANY)), *RATIOS, title="edited tokens a second")
    for row in result["rows"]:
        rates, ratios = row["edited_tokens_a_second"], row["ratios"]
        cells = [f"{rates[name]['median']:.2f}" for name in (PAPER, ONE, MANY)]
        cells += [
            f"{ratios[name]['median']:.2f} [{ratios[name]['low']:.2f}, {ratios[name]['high']:.2f}]" for name in RATIOS
        ]
        table.add_row(f"{row['entries']:,}", *cells)
    return table


def main(
    *,
    entries: Annotated[list[int] | None, typer.Option(help="Entries of a codebook; repeat for several.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all sides.")] = 10,
    requests: Annotated[int, typer.Option(min=1, help="Requests of a round that are asked one at a time.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time, of those asked together.")] = 16,
    answer: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 32,
    size: Annotated[Size, typer.Option(help="Which random model is made.")] = Size.HALF_B,
    vocabulary: Annotated[int, typer.Option(min=0, help="Tokens of its vocabulary; 0: the shape's own.")] = 0,
    cache: Annotated[
        bool, typer.Option(help="Whether the paper's loop keeps keys and values of earlier tokens.")
    ] = True,
    threads: Annotated[int, typer.Option(min=0, help="Threads of each side; 0: as torch chooses.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/method.json"),
) -> None:
    """Measure and write the result; it is written after each size."""
    console = Console()
    torch.set_num_threads(threads or torch.get_num_threads())
    threads, counts = torch.get_num_threads(), entries or [1_000, 10_000, 50_000]
    # The engine's process reads it when it loads torch, which is before it is told anything else.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    shape = QWEN_HALF_B if size is Size.HALF_B else _TINY
    shape = replace(shape, vocabulary=vocabulary or shape.vocabulary)
    rule = paper_rule()
    prompts = [list(prompt) for prompt in load_workload("32-32", concurrency).prompts]
    settings: dict[str, Any] = {"rounds": rounds, "requests": requests, "concurrency": concurrency}
    settings |= {"prompt_tokens": len(prompts[0])}
    settings |= {"answer_tokens": answer, "cache": cache, "threads": threads, "dtype": "float32"}
    result: dict[str, Any] = {
        **provenance(),
        **quietness(),
        "model": {"shape": size.value, **{name: getattr(shape, name) for name in Shape.__slots__}},
        "rule": rule.to_dict(),
        "settings": settings,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = write_random_qwen2(Path(name), shape)
        site = default_site(str(folder), "Qwen2ForCausalLM", shape.layers)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        server = PlainServer(model, site, rule, cache=cache)
        job = engine_job(folder, site, shape, counts, most=concurrency)
        with EngineProcess(job) as engine:
            if (found := engine.call("threads")) != threads:
                raise RuntimeError(f"the server computes with {found} threads, the paper's loop with {threads}.")
            for count in counts:
                book = made_book(server, prompts, count)
                bring(engine, book, rule, answer, folder)
                server.layer.book = book.plain
                sides = sides_of(server, engine, book, prompts, answer=answer, requests=requests)
                require_changed(engine, prompts, sides[MANY](0), answer)
                measured = measure(sides, rounds, say=lambda text: console.print(text, style="dim"))
                result["rows"].append({"entries": count, **summary(measured)})
                write_result(out, result)
    console.print(shown(result))


if __name__ == "__main__":
    typer.run(main)
