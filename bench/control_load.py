"""How many edits a second the control plane stores on PostgreSQL, and how long one takes, the client included.

A private PostgreSQL server with fsync on, `horen control` as a process of its own, and 16 connections from processes
of their own. Closed loop: as many unary SubmitEdit calls as go through. Open loop: calls at fixed times, whose
latency counts from the time at which each was due.

    python -m bench.control_load --out bench/results/control_load.json
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final

import grpc
import numpy as np
import typer
from rich.console import Console

from bench.provenance import provenance, write_result
from horen_vllm.cli.ports import claim_port
from horen_vllm.cli.probes import control_serving
from horen_vllm.control._pb.horen.v1 import edits_pb2, edits_pb2_grpc
from horen_vllm.control.client import HorenClient
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.registry import migrate
from horen_vllm.testing.postgres import PostgresServer, postgres_server

CONNECTIONS: Final = 16
PROCESSES: Final = 2
_START_S: Final = 60.0
_BOOKS: Final = ("one", "two", "three", "four")


@dataclass(frozen=True, slots=True)
class Load:
    """What one client process does."""

    address: str
    book: str
    """Codebook, or ``*``: one of several for each connection."""
    connections: int
    seconds: float
    rate: float | None
    """Calls a second of this process; None: as many as go through."""
    tag: str


def drive(load: Load) -> list[float]:
    """Run one client process's share and return the latency of each call in seconds."""
    began = time.perf_counter() + 0.2
    with ThreadPoolExecutor(load.connections) as pool:
        found = pool.map(partial(_drive_connection, load, began), range(load.connections))
        return [latency for latencies in found for latency in latencies]


def _drive_connection(load: Load, began: float, number: int) -> list[float]:
    # A connection each: channels of one process share one otherwise.
    options = [("grpc.use_local_subchannel_pool", 1)]
    book = _BOOKS[number % len(_BOOKS)] if load.book == "*" else load.book
    latencies: list[float] = []
    with grpc.insecure_channel(load.address, options=options) as channel:
        submit = edits_pb2_grpc.EditServiceStub(channel).SubmitEdit  # type: ignore[no-untyped-call]
        grpc.channel_ready_future(channel).result(_START_S)
        for due in _times(load, began, number):
            time.sleep(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            what = f"{load.tag}-{number}-{len(latencies)}"
            spec = edits_pb2.EditSpec(prompt=f"Who leads the company {what}?", target=f"The person {what}")
            submit(
                edits_pb2.SubmitEditRequest(parent=f"tenants/default/codebooks/{book}", spec=spec, request_id=what),
                timeout=30,
            )
            latencies.append(time.perf_counter() - (due if load.rate else sent))
    return latencies


def _times(load: Load, began: float, number: int) -> Iterator[float]:
    """Yield when each call of a connection is due; at once, until the time is over, in the closed loop."""
    if load.rate is None:
        while time.perf_counter() < began + load.seconds:
            yield began
        return
    step = load.connections / load.rate
    for turn in range(int(load.seconds / step)):
        yield began + (turn + number / load.connections) * step


def measure(address: str, *, book: str, seconds: float, rate: float | None, tag: str) -> dict[str, Any]:
    """Run all client processes once and return rate and latencies."""
    share = CONNECTIONS // PROCESSES
    loads = [
        Load(address, book, share, seconds, rate / PROCESSES if rate else None, f"{tag}-{process}")
        for process in range(PROCESSES)
    ]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        list(pool.map(abs, range(PROCESSES)))  # the imports of new processes are not what is measured
        latencies = sorted(latency for found in pool.map(drive, loads) for latency in found)
    p50, p99 = (float(np.percentile(latencies, share)) * 1e3 for share in (50, 99))
    return {
        "calls": len(latencies),
        "calls_a_second": round(len(latencies) / seconds, 1),
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
        "max_ms": round(latencies[-1] * 1e3, 2),
    }


@contextmanager
def control_plane(url: str) -> Iterator[str]:
    """Give the address of a control plane of the demo model on the database at `url`."""
    address = f"127.0.0.1:{claim_port(0, '')}"
    command = [sys.executable, "-m", "horen_vllm.cli.app", "control", "--model", str(demo_model_dir())]
    process = subprocess.Popen([*command, "--database", url, "--address", address], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_S
        while not control_serving(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the control plane did not start.")
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def database(server: PostgresServer) -> str:
    """Return the URL of a new, migrated database."""
    url = server.create_database("load")
    migrate.upgrade(url)
    return url


def summed_up(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of several rounds, with the rounds."""
    return {name: statistics.median(it[name] for it in rounds) for name in rounds[0]} | {"rounds": rounds}


def main(
    *,
    rounds: Annotated[int, typer.Option(help="Rounds of each kind.")] = 5,
    seconds: Annotated[float, typer.Option(help="Length of one round.")] = 10.0,
    rate: Annotated[float, typer.Option(help="Calls a second in the open loop.")] = 200.0,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/control_load.json"),
) -> None:
    """Measure and write the result."""
    console = Console()
    found: dict[str, list[dict[str, Any]]] = {"one_codebook": [], "four_codebooks": [], "open_loop": []}
    with postgres_server() as server, control_plane(database(server)) as address:
        with HorenClient(address) as client:
            for book in _BOOKS:
                client.create_codebook(book, preset="cosine", threshold=0.9)
        with server.connect("load") as connection:
            fsync = connection.execute("SHOW fsync").fetchone()
        for turn in range(rounds):
            for name, book, at in (
                ("one_codebook", "one", None),
                ("four_codebooks", "*", None),
                ("open_loop", "*", rate),
            ):
                result = measure(address, book=book, seconds=seconds, rate=at, tag=f"{name}-{turn}")
                found[name].append(result)
                console.print(name, result)
    settings = {"connections": CONNECTIONS, "client_processes": PROCESSES, "fsync": fsync and fsync[0]}
    settings |= {"seconds": seconds, "open_loop_rate": rate}
    results = {name: summed_up(rows) for name, rows in found.items()}
    write_result(out, {**provenance(), "settings": settings, **results})


if __name__ == "__main__":
    typer.run(main)
