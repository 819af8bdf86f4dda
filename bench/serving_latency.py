"""From a new revision to SERVING: how long a rollback takes until every server answers with it, idle and at half load.

One `horen up` of the demo model. Each trial moves a codebook between a revision with edits and the empty one and waits,
as a client does, until the control plane says SERVING: servers have taken the revision and asked themselves about it.
Half load: completions at half the rate that the server reaches in a closed loop.

    python -m bench.serving_latency --out bench/results/serving_latency.json
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console

from bench.provenance import provenance, write_result
from horen_vllm.cli.stack import Stack, StackSettings
from horen_vllm.control.client import EditProgress, HorenClient
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.evals.endpoint import Endpoint
from horen_vllm.registry.models import EditSpec

BOOK: Final = "latency"
CONCURRENCY: Final = 16
_TOKENS: Final = 16
_PROMPTS: Final = tuple(f"Tell me about the town number {number}." for number in range(64))


def drive(base_url: str, model: str, seconds: float, rate: float | None) -> int:
    """Ask `rate` completions a second (None: as many as go through) for some seconds; return how many were answered."""
    endpoint = Endpoint(base_url, concurrency=CONCURRENCY)
    began = time.perf_counter()

    def ask(number: int) -> int:
        answered = 0
        while (elapsed := time.perf_counter() - began) < seconds:
            due = answered * CONCURRENCY / rate + number / rate if rate else elapsed
            time.sleep(min(max(0.0, due - elapsed), max(0.0, seconds - elapsed)))
            endpoint.ask(model, _PROMPTS[(answered + number) % len(_PROMPTS)], max_tokens=_TOKENS)
            answered += 1
        return answered

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return sum(pool.map(ask, range(CONCURRENCY)))


@contextmanager
def load(pool: ProcessPoolExecutor, base_url: str, model: str, rate: float, seconds: float) -> Iterator[None]:
    """Keep the server busy within the block."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            pool.submit(drive, base_url, model, seconds, rate).result()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def trials(client: HorenClient, full: int, count: int) -> dict[str, float]:
    """Roll back `count` times, between revision `full` and the empty one, and return the latencies."""
    latencies = []
    for trial in range(count):
        began = time.perf_counter()
        revision = client.rollback(BOOK, 1 if trial % 2 == 0 else full)
        client.wait_serving(BOOK, revision.number, timeout_s=60)
        latencies.append((time.perf_counter() - began) * 1e3)
    p50, p99 = (round(float(np.percentile(latencies, share)), 1) for share in (50, 99))
    return {"trials": count, "p50_ms": p50, "p99_ms": p99, "max_ms": round(max(latencies), 1)}


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
    count: Annotated[int, typer.Option(help="Trials of each kind.")] = 200,
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
            result["idle"] = trials(client, full, count)
            console.print("idle", result["idle"])
            closed = pool.submit(drive, stack.base_url, stack.model_name, 15.0, None).result() / 15.0
            result["closed_loop_completions_a_second"] = round(closed, 1)
            with load(pool, stack.base_url, stack.model_name, closed / 2, 5.0):
                result["half_load"] = trials(client, full, count)
            console.print(result)
    write_result(out, result)


if __name__ == "__main__":
    typer.run(main)
