"""What the plugin costs a server: tokens a second, first token and further ones, beside vLLM without it.

Servers of one random model answer the same requests in turn, the order rotating; the idle ones wait. Answers have fixed
lengths. For each set of codebooks a server with the plugin and them as static folders is started (`--together`, as on a
GPU: one server for all sets); cells of the same codebooks and workload share the plain server's rounds.

    python -m bench.serving --work WORK
    python -m bench.serving --work WORK --shape 8b --compiled --lora --minutes 8 --out bench/results/serving_gpu.json

WORK holds model, adapter and codebooks, and is used again. A run that was broken off goes on with what its result file
has of the same commit and settings. `--grid` measures all cells instead of those with goals. The package need not be
installed.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console

from bench.checkout import register_checkout
from bench.random_model import QWEN_HALF_B, Shape, write_dummy_qwen2, write_random_qwen2
from bench.serving_books import Books, Target, link_books, site_of, window_ratio, write_books
from bench.serving_cells import LONG, LORA_RANK, Cell, Fleet, Group, cells_of, core, fleets, grid
from bench.serving_clock import Clock
from bench.serving_lora import write_adapter
from bench.serving_results import Results
from bench.serving_rows import RoundNumbers, Rule, failed, measured
from bench.serving_sides import Server, block_size, common_flags, lora_flags, own_cores, plugin_flags, server
from bench.serving_workloads import load_workload
from horen_vllm.cli.server_command import on_cpu

SHAPES: Final = {
    "0.5b": QWEN_HALF_B,
    "8b": Shape(layers=36, hidden=4096, inner=12288, heads=32, kv_heads=8, vocabulary=151936, spread=0.02),
    "tiny": Shape(layers=2, hidden=128, inner=256, heads=2, kv_heads=2, vocabulary=4096, spread=0.05),
}
DUMMY: Final = frozenset({"8b"})
"""Shapes whose weights every server makes itself, since 16 GB need not go over a disk."""
_SPARE_MIB: Final = 64
"""Of the budgets, for what is not counted: unfilled pages."""
_REQUESTS: Final = {True: 16, False: 32}
"""Of a round, on a CPU or not."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A run.

    Attributes
    ----------
    flags
        Of all servers.
    save
        Takes each row as soon as it is there.
    say
        Takes a line about how far the run is.
    """

    target: Target
    work: Path
    flags: list[str]
    requests: int
    rounds: int
    concurrency: int
    clock: Clock
    save: Callable[[dict[str, Any]], None]
    say: Callable[[str], None]
    numbers: RoundNumbers = field(default_factory=RoundNumbers)

    def rule(self, workload: str) -> Rule:
        """Return what rounds of a workload are made of."""
        prompts = load_workload(workload, self.requests)
        return Rule(prompts, self.concurrency, block_size(), window_ratio(self.target))


def measure(bench: Bench, chosen: Sequence[Fleet]) -> bool:
    """Measure all cells, as far as the time allows; return whether all are measured.

    Raises
    ------
    RuntimeError, OSError
        When the plain server fails.
    """
    done = True
    with server(bench.target, bench.flags, bench.work / "plain.log", plugin=False) as plain:
        for place, fleet in enumerate(chosen):
            if not bench.clock.fits(fleet.groups[0], start=place > 0):
                bench.say(f"no time for {fleet.label}")
                done = False
                continue
            done &= _fleet(bench, fleet, plain, chosen[place + 1 :])
    return done


def _fleet(bench: Bench, fleet: Fleet, plain: Server, later: Sequence[Fleet]) -> bool:
    """Measure the cells of one server, and note when it cannot be started."""
    began = time.monotonic()
    with ExitStack() as stack:
        try:
            other = stack.enter_context(other_server(bench, fleet))
            plain.wait()
            other.wait()
        except (RuntimeError, OSError) as exc:
            plain.check()
            bench.say(f"{fleet.label}: {exc}")
            for cell in cells_of(fleet):
                bench.save(failed(cell, str(exc)))
            return False
        bench.clock.started(time.monotonic() - began)
        done = True
        for place, group in enumerate(fleet.groups):
            if bench.clock.fits(group):
                done &= _group(bench, group, plain, other)
                if left := bench.clock.remaining(later, fleet.groups[place + 1 :]):
                    bench.say(f"about {left / 60:.0f} min to go")
            else:
                bench.say(f"no time for {group.label}")
                done = False
    return done


def _group(bench: Bench, group: Group, plain: Server, other: Server) -> bool:
    began, sides = time.monotonic(), 1 + len(group.cells)
    taken = bench.numbers.take(group.workload, bench.rounds + 1)

    def say(seconds: float) -> None:
        bench.clock.asked(group.workload, sides, 1, seconds)
        left = seconds * bench.rounds / 60
        bench.say(f"{group.label}: a round of all {sides} sides took {seconds:.0f} s, so these cells {left:.1f} min")

    try:
        rows = list(measured(group, plain, other, bench.rule(group.workload), taken, say))
    except (RuntimeError, OSError) as exc:
        plain.check()
        rows = [failed(cell, f"plain server: {exc}") for cell in group.cells]
    for row in rows:
        bench.save(row)
    if any("error" in row for row in rows):
        return False
    bench.clock.asked(group.workload, sides, len(taken), time.monotonic() - began)
    return True


def other_server(bench: Bench, fleet: Fleet) -> AbstractContextManager[Server]:
    """Return what is compared with the plain server; its codebooks or its adapter are made first."""
    log = bench.work / f"{fleet.label[:120]}.log"
    if not fleet.books:
        adapter = write_adapter(bench.work / "lora", bench.target.folder, LORA_RANK)
        return server(bench.target, [*bench.flags, *lora_flags(adapter, LORA_RANK)], log, plugin=False)
    folders = [write_books(bench.work / "books", bench.target, books) for books in fleet.books]
    folder = folders[0] if len(folders) == 1 else link_books(bench.work / "linked" / fleet.label[:120], folders)
    flags = plugin_flags(bench.target, folder, **budgets(bench.target, fleet.books))
    return server(bench.target, [*bench.flags, *flags], log, plugin=True)


def budgets(target: Target, books: Sequence[Books]) -> dict[str, int]:
    """Return the plugin's budgets in MiB: every entry is there twice, a routing space once."""
    keys = sum(2 * 4 * it.entries * it.width(target) for it in books)
    values = sum(2 * 2 * it.entries * target.d_out for it in books)
    space = 4 * (min(1024, target.d_in) + 1) * target.d_in
    return {"key_mib": (keys + space) // 2**20 + _SPARE_MIB, "value_mib": values // 2**20 + _SPARE_MIB}


def model_folder(work: Path, shape: str) -> tuple[Path, int]:
    """Return a folder with the random model of a shape, made unless it is there, and the layer that is edited."""
    layer = SHAPES[shape].layers * 2 // 3
    if shape in DUMMY:
        return write_dummy_qwen2(work / shape, SHAPES[shape], site_of(layer)), layer
    return write_random_qwen2(work / shape, SHAPES[shape]), layer


def cells(*, every: bool, lora: bool, only: str) -> list[Cell]:
    """Return the cells that are asked for; on a GPU those with goals come first."""
    chosen = (grid if every else core)(on_gpu=not on_cpu())
    if lora:
        chosen.append(Cell(None, LONG))
    return [cell for cell in chosen if only in cell.label]


def main(
    *,
    work: Annotated[Path, typer.Option(help="Folder for model, adapter, codebooks and logs; used again.")],
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/serving_cpu.json"),
    shape: Annotated[str, typer.Option(help=f"Of the random model: {', '.join(SHAPES)}.")] = "0.5b",
    requests: Annotated[int, typer.Option(min=0, max=64, help="Of a round; 0: 16 on a CPU, 32 on a GPU.")] = 0,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of a cell.")] = 10,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.")] = 16,
    memory: Annotated[float, typer.Option(help="Share of a GPU's memory for one server.")] = 0.3,
    compiled: Annotated[bool, typer.Option("--compiled", help="Let vLLM compile and capture.")] = False,
    lora: Annotated[bool, typer.Option("--lora", help="Measure vLLM's LoRA, too.")] = False,
    every: Annotated[bool, typer.Option("--grid", help="All cells, not only those with goals.")] = False,
    together: Annotated[
        bool | None, typer.Option(help="One server for all codebooks; by default on a GPU, without --grid.")
    ] = None,
    only: Annotated[str, typer.Option(help="Cells whose label has this; the others' rows stay.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Measure cells that the result file has, too.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Leave out cells that would take longer than this.")] = None,
) -> None:
    """Measure and write the result after each set of cells; end with 1 when a cell could not be measured."""
    console = Console()
    requests = requests or _REQUESTS[on_cpu()]
    if requests * rounds % 10:
        raise typer.BadParameter("--requests times --rounds must be a multiple of ten: a tenth of them is edited.")
    together = (not on_cpu() and not every) if together is None else together
    clock = Clock(rounds, minutes)
    # Model and codebooks are made of many small pieces, for which more threads only wait for each other.
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    register_checkout(work)
    folder, layer = model_folder(work, shape)
    flags = common_flags(concurrency=concurrency, memory=memory, compiled=compiled, dummy=shape in DUMMY)
    settings = {"shape": shape, "requests": requests, "rounds": rounds, "concurrency": concurrency}
    settings |= {"together": together, "flags": flags, "environment": dict(own_cores())}
    try:
        results = Results(out, settings, partial=bool(only), again=again)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc

    def save(row: dict[str, Any]) -> None:
        results.keep(row)
        console.print({name: value for name, value in row.items() if name != "pairs"})

    chosen = [cell for cell in cells(every=every, lora=lora, only=only) if not results.has(cell.label)]
    console.print(f"{len(chosen)} cells to measure")
    target = Target.open(folder, layer)
    say = partial(console.print, style="dim")
    bench = Bench(target, work / f"{shape}-work", flags, requests, rounds, concurrency, clock, save, say)
    bench.work.mkdir(exist_ok=True)
    if chosen and not measure(bench, fleets(chosen, together=together)):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
