"""What the plugin costs a server: tokens a second, first token and further ones, beside vLLM without it.

Two servers of one random model answer the same requests in turn, the order alternating; the idle one waits. Answers
have fixed lengths. For each set of codebooks a server with the plugin and them as static folders is started.

    python -m bench.serving --work WORK --out bench/results/serving_cpu.json
    python -m bench.serving --work WORK --shape 8b --compiled --memory 0.4 --out bench/results/serving_gpu.json

WORK holds model, adapter and codebooks, and is used again. `--grid` measures all cells instead of those with goals.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from bench.editing_model import QWEN_HALF_B, Shape, write_random_qwen2
from bench.intervals import interval
from bench.provenance import provenance, write_result
from bench.serving_books import Books, Target, write_books
from bench.serving_cells import LONG, Cell, by_books, core, grid
from bench.serving_load import Round, run_round
from bench.serving_lora import write_adapter
from bench.serving_sides import MODEL, common_flags, lora_flags, matched, plugin_flags, server
from bench.serving_workloads import load_workload
from horen_vllm.cli.server_command import on_cpu

SHAPES: Final = {
    "0.5b": QWEN_HALF_B,
    "8b": Shape(layers=36, hidden=4096, inner=12288, heads=32, kv_heads=8, vocabulary=151936, spread=0.02),
    "tiny": Shape(layers=2, hidden=128, inner=256, heads=2, kv_heads=2, vocabulary=4096, spread=0.05),
}
_LORA_RANK: Final = 8
_SPARE_MIB: Final = 64
"""Of the budgets, for what is not counted: routing spaces and unfilled pages."""

Ask = Callable[[int], Round]


@dataclass(frozen=True, slots=True)
class Bench:
    """Settings of a run."""

    target: Target
    work: Path
    flags: list[str]
    requests: int
    rounds: int
    concurrency: int


def measure(bench: Bench, cells: list[Cell], save: Callable[[dict[str, Any]], None]) -> None:
    """Measure all cells, those of one set of codebooks on one server, and hand over each row as soon as it is there."""
    with server(bench.target, bench.flags, bench.work / "plain.log", plugin=False) as plain:
        for books, group in by_books(cells).items():
            folder = write_books(bench.work / "books", bench.target, books)
            flags = [*bench.flags, *plugin_flags(bench.target, folder, **budgets(bench.target, books))]
            with server(bench.target, flags, bench.work / f"{books.label}.log", plugin=True) as edited:
                for cell in group:
                    save(row(bench, cell, plain, edited))


def row(bench: Bench, cell: Cell, plain: str, edited: str) -> dict[str, Any]:
    """Measure one cell, and see that as many requests were edited as were meant to be."""
    workload, models = load_workload(cell.workload, bench.requests), cell.models(bench.requests)
    before = matched(edited)
    sides: dict[str, Ask] = {
        "plain": lambda number: run_round(plain, [MODEL], workload, number, bench.concurrency),
        "edited": lambda number: run_round(edited, models, workload, number, bench.concurrency),
    }
    pairs = paired(sides, bench.rounds)
    fired, meant = matched(edited) - before, sum("@fires" in model for model in models) * (bench.rounds + 1)
    if cell.books.entries and fired != meant * bench.requests / len(models):
        raise RuntimeError(f"{cell.label}: {fired:.0f} answers were edited, not {meant}.")
    measured = compared(pairs)
    met = None if cell.goal is None else measured["tokens_ratio"]["low"] >= cell.goal - 0.01
    return {"cell": cell.label, "goal": cell.goal, "met": met, **measured}


def paired(sides: dict[str, Ask], rounds: int) -> list[dict[str, Round]]:
    """Return what both sides measured, round by round, without a first one for warming up."""
    pairs = []
    for number in range(rounds + 1):
        order = list(sides)[:: -1 if number % 2 else 1]
        pairs.append({name: sides[name](number) for name in order})
    return pairs[1:]


def compared(pairs: list[dict[str, Round]]) -> dict[str, Any]:
    """Return medians of the pairs' ratios and differences with 95 % intervals, and the pairs."""
    first, second = ("plain", next(name for name in pairs[0] if name != "plain"))

    def of(compare: Callable[[Round, Round], float]) -> dict[str, float]:
        found = interval([compare(pair[second], pair[first]) for pair in pairs])
        return {name: round(value, 4) for name, value in found.items()}

    return {
        "tokens_ratio": of(lambda other, plain: other.tokens / plain.tokens),
        "ttft_p50_more_ms": of(lambda other, plain: other.ttft_p50_ms - plain.ttft_p50_ms),
        "ttft_p99_more_ms": of(lambda other, plain: other.ttft_p99_ms - plain.ttft_p99_ms),
        "tpot_p50_ratio": of(lambda other, plain: other.tpot_p50_ms / plain.tpot_p50_ms),
        "tpot_p99_ratio": of(lambda other, plain: other.tpot_p99_ms / plain.tpot_p99_ms),
        "pairs": [{name: measured.rounded() for name, measured in pair.items()} for pair in pairs],
    }


def lora_row(bench: Bench) -> dict[str, Any]:
    """Measure a server whose requests all have one LoRA adapter, as a yardstick."""
    adapter = write_adapter(bench.work / "lora", bench.target.folder, _LORA_RANK)
    workload = load_workload(LONG, bench.requests)
    with ExitStack() as stack:
        plain = stack.enter_context(server(bench.target, bench.flags, bench.work / "plain.log", plugin=False))
        flags = [*bench.flags, *lora_flags(adapter, _LORA_RANK)]
        other = stack.enter_context(server(bench.target, flags, bench.work / "lora.log", plugin=False))
        sides: dict[str, Ask] = {
            "plain": lambda number: run_round(plain, [MODEL], workload, number, bench.concurrency),
            "lora": lambda number: run_round(other, ["lora"], workload, number, bench.concurrency),
        }
        return {"cell": f"vLLM's LoRA, rank {_LORA_RANK} {LONG}", "goal": None, **compared(paired(sides, bench.rounds))}


def budgets(target: Target, books: Books) -> dict[str, int]:
    """Return the plugin's budgets in MiB for two codebooks of every entry."""
    width = target.d_in if books.keys == "raw" else min(1024, target.d_in) + 1024
    space = 4 * 1024 * target.d_in * 2 * books.tenants
    keys, values = (2 * books.entries * size for size in (4 * width, 2 * target.d_out))
    return {"key_mib": (keys + space) // 2**20 + _SPARE_MIB, "value_mib": values // 2**20 + _SPARE_MIB}


def main(
    *,
    work: Annotated[Path, typer.Option(help="Folder for model, adapter, codebooks and logs; used again.")],
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/serving_cpu.json"),
    shape: Annotated[str, typer.Option(help=f"Of the random model: {', '.join(SHAPES)}.")] = "0.5b",
    requests: Annotated[int, typer.Option(min=1, max=64, help="Requests of a round.")] = 32,
    rounds: Annotated[int, typer.Option(min=2, help="Pairs of rounds.")] = 10,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.")] = 16,
    memory: Annotated[float, typer.Option(help="Share of a GPU's memory for one server.")] = 0.4,
    compiled: Annotated[bool, typer.Option("--compiled", help="Let vLLM compile and capture.")] = False,
    lora: Annotated[bool, typer.Option("--lora", help="Measure vLLM's LoRA, too.")] = False,
    every: Annotated[bool, typer.Option("--grid", help="All cells, not only those with goals.")] = False,
    only: Annotated[str, typer.Option(help="Cells whose label has this.")] = "",
) -> None:
    """Measure and write the result after each cell."""
    console = Console()
    work.mkdir(parents=True, exist_ok=True)
    folder = work / shape
    if not (folder / "config.json").exists():
        write_random_qwen2(folder, SHAPES[shape])
    target = Target.open(folder, SHAPES[shape].layers * 2 // 3)
    flags = common_flags(concurrency=concurrency, memory=memory, compiled=compiled)
    bench = Bench(target, work / f"{shape}-work", flags, requests, rounds, concurrency)
    bench.work.mkdir(exist_ok=True)
    settings = {"shape": shape, "requests": requests, "rounds": rounds, "concurrency": concurrency, "flags": flags}
    result: dict[str, Any] = {**provenance(), "settings": settings, "rows": []}

    def save(row: dict[str, Any]) -> None:
        result["rows"].append(row)
        write_result(out, result)
        console.print(row["cell"], {name: value for name, value in row.items() if name not in {"pairs", "cell"}})

    chosen = grid(on_gpu=not on_cpu()) if every else core(on_gpu=not on_cpu())
    if lora:
        save(lora_row(bench))
    measure(bench, [cell for cell in chosen if only in cell.label], save)


if __name__ == "__main__":
    typer.run(main)
