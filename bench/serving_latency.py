"""From a new revision to SERVING: how long a rollback takes until every server answers with it, idle and at half load.

One `horen up` of the demo model. Each trial moves a codebook between a revision with edits and the empty one and waits,
as a client does, until the control plane says SERVING: servers have taken the revision and asked themselves about it.
Half load: completions at half the rate that the server reaches in a closed loop.

    python -m bench.serving_latency --out bench/results/serving_latency.json
"""

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from bench.load import CONCURRENCY, drive, load
from bench.provenance import provenance, write_result
from bench.quantiles import summary
from horen_vllm.cli.stack import Stack, StackSettings
from horen_vllm.control.client import EditProgress, HorenClient
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.registry.models import EditSpec

BOOK: Final = "latency"


def trials(client: HorenClient, full: int, number: int) -> dict[str, Any]:
    """Roll back `number` times, between revision `full` and the empty one, and return the latencies."""
    latencies = []
    for trial in range(number):
        began = time.perf_counter()
        revision = client.rollback(BOOK, 1 if trial % 2 == 0 else full)
        client.wait_serving(BOOK, revision.number, timeout_s=60)
        latencies.append((time.perf_counter() - began) * 1e3)
    found = summary(latencies)
    names = {"p50": "p50_ms", "p99": "p99_ms", "max": "max_ms", "p50_interval": "p50_interval_ms"}
    names["p99_interval"] = "p99_interval_ms"
    return {"trials": number, **{name: found[key] for key, name in names.items()}}


def prepare(client: HorenClient, edits: int) -> int:
    """Make the codebook with some edits, wait until they are served, and return their revision."""
    client.create_codebook(BOOK, preset="cosine", threshold=0.95)
    specs = [EditSpec(prompt=f"Who leads the guild {number}?", target="Mira Lund") for number in range(edits)]
    views = [client.submit_edit(BOOK, spec) for spec in specs]
    for view in views:
        client.wait_edit(view, until=EditProgress.PUBLISHED, timeout_s=600)
    revision = client.get_codebook(BOOK).revision
    client.wait_serving(BOOK, revision, timeout_s=600)
    return revision


def main(
    *,
    each: Annotated[int, typer.Option("--trials", help="Trials of each kind.")] = 200,
    edits: Annotated[int, typer.Option(help="Edits of the codebook.")] = 10,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/serving_latency.json"),
) -> None:
    """Measure and write the result."""
    console = Console()
    result: dict[str, Any] = {**provenance(), "settings": {"edits": edits, "concurrency": CONCURRENCY}}
    with tempfile.TemporaryDirectory() as home, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        settings = StackSettings(model=demo_model_dir(), home=Path(home), port=0, control_port=0)
        with Stack(settings) as stack, HorenClient(stack.control_address) as client:
            full = prepare(client, edits)
            result["idle"] = trials(client, full, each)
            console.print("idle", result["idle"])
            closed = pool.submit(drive, stack.base_url, stack.model_name, 15.0, None).result() / 15.0
            result["closed_loop_completions_a_second"] = round(closed, 1)
            with load(stack.base_url, stack.model_name, closed / 2):
                result["half_load"] = trials(client, full, each)
            console.print(result)
    write_result(out, result)


if __name__ == "__main__":
    typer.run(main)
