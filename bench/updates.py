"""What a change of a served codebook takes: one edit, a rollback, a bulk load, and the engine steps around a flip.

The first three on one `horen up` of the demo model, as an operator's client sees them; the steps on an engine of their
own, by `bench.live_updates`. The bulk load has two parts. `import`: a file with the entries goes up, every entry is
verified and stored durably, and the registry has them in one revision. `load`, from that revision to SERVING: the
server hears of it, reads and verifies every artifact, packs them, copies keys and values into its buffers beside its
steps, flips, asks itself about a sample, and says so; each time from an empty codebook. `first_load` is the one behind
the import, which also starts the server's packing process. Files may come from the page cache, as they do where they
have just been written.

The result is written after each part. A part that fails is recorded under ``failed``, the others go on, and the
command ends with 1. Intervals are of 95 %, by order statistics; null where a sample is too small for an end.

    python -m bench.updates --out bench/results/updates.json
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from bench.memory_accounts import MIB, demo_shape
from bench.provenance import provenance, quietness
from bench.result_parts import ResultParts
from bench.serving_latency import BOOK as ROLLED_BACK
from bench.serving_latency import prepare, trials
from bench.updates_bulk import BOOK as BULK
from bench.updates_bulk import TARGET_TOKENS, bring_in, load_again, write_bulk_file
from bench.updates_submissions import submit_all
from horen_vllm.cli.demo_choice import choose
from horen_vllm.cli.stack import Stack, StackSettings
from horen_vllm.control.client import HorenClient
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.evals.endpoint import Endpoint

_SUBMITTED: Final = "submitted"
_PRESET, _THRESHOLD = "cosine", 0.95
"""As `serving_latency.prepare` makes its codebook, whose file the bulk load begins with."""
_SEED: Final = 8
_PREPARED: Final = 10
"""Edits of the codebook that is rolled back."""
"""Load below which a machine does nothing else."""
_ROOM: Final = 1.1
_SPARE_MIB: Final = 64


def stack_settings(home: Path, entries: int) -> StackSettings:
    """Return an embedded system whose server has room for so many entries."""
    shape = demo_shape()
    numbers = shape.d_in, (TARGET_TOKENS + 1) * shape.d_out
    keys, values = (int(_ROOM * entries * each * 4) // MIB + _SPARE_MIB for each in numbers)
    return StackSettings(
        model=demo_model_dir(), home=home, port=0, control_port=0, key_budget_mib=keys, value_budget_mib=values
    )


def measure_bulk(
    client: HorenClient, endpoint: Endpoint, model: str, folder: Path, full: int, entries: int, loads: int
) -> dict[str, Any]:
    """Import a codebook of `entries` entries, load it `loads` times, and check that it answers.

    The first ones are those of the rolled back codebook's revision `full`.
    """
    exported = export_full(client, folder, full)
    file = write_bulk_file(exported, folder / "bulk", entries)
    brought = bring_in(client, file, preset=_PRESET, threshold=_THRESHOLD)
    again = load_again(client, file, brought.pop("revision"), loads)
    fired = endpoint.ask(f"{model}@{BULK}", "Who leads the guild 0?").fired
    if not fired or client.get_codebook(BULK).entry_count != entries:
        raise RuntimeError("the loaded codebook does not answer.")
    sizes = {"file_bytes": file.file_bytes, "artifact_bytes": file.artifact_bytes, "pool_bytes": file.pool_bytes}
    return {"entries": entries, **sizes, **brought, **again}


def export_full(client: HorenClient, folder: Path, full: int) -> Path:
    """Export the rolled back codebook with the entries of revision `full`, whichever one rollbacks left it at."""
    client.rollback(ROLLED_BACK, full)
    exported = folder / "exported"
    client.export_codebook(ROLLED_BACK, exported)
    return exported


def measure_steps(folder: Path, entries: int, flips: int, rounds: int) -> dict[str, Any]:
    """Return what `bench.live_updates` measures, on an engine in a process of its own.

    Raises
    ------
    RuntimeError
        When it ends with an error.
    """
    out = folder / "live_updates.json"
    sizes = {"entries": entries, "flips": flips, "rounds": rounds}
    options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    command = [sys.executable, "-m", "bench.live_updates", *options, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"bench.live_updates ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    found.pop("provenance")
    return found


def shown(result: dict[str, Any]) -> Table:
    """Return the times of single changes that were measured, as a table."""
    table = Table("what", "p50 ms", "p99 ms", "max ms", title="changes of a served codebook")
    if submitted := result.get("submission"):
        for name in ("to_published", "to_first_answer", "to_serving"):
            _row(table, f"submission {name.replace('_', ' ')}", submitted[f"{name}_ms"])
    if rolled := result.get("rollback"):
        _row(table, "rollback to serving", {name: rolled[f"{name}_ms"] for name in ("p50", "p99", "max")})
    if steps := result.get("steps"):
        _row(table, "a flip", {name: steps["flips"][f"{name}_ms"] for name in ("p50", "p99", "max")})
        for name in ("before", "after"):
            _row(table, f"step {name} a flip", steps[f"step_{name}_a_flip_ms"])
        for name in ("quiet", "staging"):
            _row(table, f"step, {name}", steps["staging"][f"{name}_ms"])
    return table


def shown_bulk(bulk: dict[str, Any]) -> Table:
    """Return the bulk load as a table."""
    table = Table("bulk", "s", "entries/s", "MB/s of files", title=f"{bulk['entries']:,} entries")
    for name in ("import", "first_load", "import_to_serving", "load"):
        found = bulk[name]
        rates = (found["entries_a_second"], found["artifact_mb_a_second"])
        table.add_row(name.replace("_", " "), f"{found['median_s']:,.2f}", f"{rates[0]:,.0f}", f"{rates[1]:,.2f}")
    return table


def _row(table: Table, name: str, found: dict[str, float]) -> None:
    table.add_row(name, *(f"{found[column]:,.2f}" for column in ("p50", "p99", "max")))


def main(
    *,
    edits: Annotated[int, typer.Option(min=1, help="Edits that are submitted one after another.")] = 100,
    rollbacks: Annotated[int, typer.Option(min=2, help="Rollbacks, odd numbers too.")] = 200,
    entries: Annotated[int, typer.Option(min=16, help="Entries of the bulk load.")] = 100_000,
    loads: Annotated[int, typer.Option(min=1, help="Times that the server loads them.")] = 10,
    steps: Annotated[bool, typer.Option(help="Whether the engine steps around flips are measured, too.")] = True,
    step_entries: Annotated[int, typer.Option(min=100, help="Entries that are staged beside steps.")] = 10_000,
    flips: Annotated[int, typer.Option(min=10, help="Flips between two steps.")] = 200,
    rounds: Annotated[int, typer.Option(min=10, help="Pairs of steps with and without staging.")] = 10,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/updates.json"),
) -> None:
    """Measure part by part and write the result after each."""
    console = Console()
    settings = {"edits": edits, "rollbacks": rollbacks, "entries": entries, "loads": loads}
    settings |= {"step_entries": step_entries, "flips": flips, "rounds": rounds}
    made = {**provenance(), **quietness()}
    parts = ResultParts(out, {**made, "model": "demo", "settings": settings})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with parts.part("stack"), Stack(stack_settings(folder / "home", entries)) as stack:
            measure_served(parts, stack, folder, settings)
        if steps:
            with parts.part("steps"):
                parts.result["steps"] = measure_steps(folder, step_entries, flips, rounds)
    console.print(shown(parts.result))
    if "bulk" in parts.result:
        console.print(shown_bulk(parts.result["bulk"]))
    raise typer.Exit(int(bool(parts.result["failed"])))


def measure_served(parts: ResultParts, stack: Stack, folder: Path, settings: dict[str, int]) -> None:
    """Measure submissions, rollbacks and the bulk load on a system that runs."""
    with HorenClient(stack.control_address) as client:
        endpoint, model = Endpoint(stack.base_url), stack.model_name
        with parts.part("submission"):
            parts.result["submission"] = measure_submissions(client, endpoint, model, settings["edits"])
        full = prepare(client, _PREPARED)
        with parts.part("rollback"):
            parts.result["rollback"] = trials(client, full, settings["rollbacks"])
        with parts.part("bulk"):
            sizes = settings["entries"], settings["loads"]
            parts.result["bulk"] = measure_bulk(client, endpoint, model, folder, full, *sizes)


def measure_submissions(client: HorenClient, endpoint: Endpoint, model: str, edits: int) -> dict[str, Any]:
    """Return the times of edits that are submitted one after another to a codebook of their own."""
    client.create_codebook(_SUBMITTED, preset=_PRESET, threshold=_THRESHOLD)
    client.wait_serving(_SUBMITTED, 1, timeout_s=60)
    # The first edit of a worker loads what the others find there.
    first, *others = choose(edits + 1, _SEED)
    submit_all(client, endpoint, f"{model}@{_SUBMITTED}", _SUBMITTED, [first])
    return submit_all(client, endpoint, f"{model}@{_SUBMITTED}", _SUBMITTED, others)


if __name__ == "__main__":
    typer.run(main)
