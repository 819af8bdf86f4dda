"""Edits a second with 1, 2 and 4 workers on one PostgreSQL queue, where training an edit takes a fixed time.

Each worker is a process of its own with the real queue and artifact folder: it claims a batch, waits as long as an
accelerator would compute, stores the entries and publishes them. The edits are of 16 codebooks, since publications of
one codebook follow each other. What is lost against 1, 2 and 4 times one worker is the queue's share.

    python -m bench.worker_scaling --out bench/results/worker_scaling.json
"""

import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from bench.provenance import provenance, write_result
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.artifacts.store import digest_of
from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.registry import migrate
from horen_vllm.registry.models import EditSpec, Publication
from horen_vllm.registry.store import SqlRegistry
from horen_vllm.registry.submission import Submission
from horen_vllm.testing.postgres import PostgresServer, postgres_server

WORKERS: Final = (1, 2, 4)
BOOKS: Final = 16
BATCH: Final = 16
ENTRY_BYTES: Final = 16384
_FINGERPRINT: Final = "f" * 64
_LEASE_S: Final = 60.0
_START_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Task:
    """What one worker process does."""

    url: str
    artifacts: str
    name: str
    cost_s: float
    begin: float
    """Wall-clock time at which all workers begin."""


def work(task: Task) -> tuple[int, float]:
    """Work until the queue is empty; return the edits published and the wall-clock time of the last one."""
    registry, artifacts = SqlRegistry(task.url), ArtifactFolder(Path(task.artifacts))
    time.sleep(max(0.0, task.begin - time.time()))
    done, last = 0, task.begin
    while claims := registry.claim(task.name, lease_s=_LEASE_S, fingerprint=_FINGERPRINT, limit=BATCH):
        time.sleep(task.cost_s * len(claims))
        base = registry.get_codebook(claims[0].edit.codebook).revision
        entries = [claim.edit.edit_id.encode().ljust(ENTRY_BYTES, b"\0") for claim in claims]
        registry.register_artifacts({digest_of(data): len(data) for data in entries})
        batch = [
            (claim, Publication(artifact=artifacts.put(data), base_revision=base + number))
            for number, (claim, data) in enumerate(zip(claims, entries, strict=True))
        ]
        registry.trained(claims)
        registry.publish(batch)
        done, last = done + len(claims), time.time()
    return done, last


def submitted(server: PostgresServer, edits: int, name: str) -> str:
    """Return the URL of a new database with so many edits in its queue."""
    url = server.create_database(name)
    migrate.upgrade(url)
    registry = SqlRegistry(url)
    parameters = MethodParameters(preset="cosine", threshold=0.9)
    books = [CodebookName(DEFAULT_TENANT, f"book-{number}") for number in range(BOOKS)]
    for book in books:
        registry.create_codebook(book, model="m", fingerprint=_FINGERPRINT, site="s", parameters=parameters)
    specs = [EditSpec(prompt=f"Who leads company {number}?", target="Mira Lund") for number in range(edits)]
    registry.submit_many([Submission(codebook=books[number % BOOKS], spec=spec) for number, spec in enumerate(specs)])
    return url


def rate(server: PostgresServer, workers: int, *, edits: int, cost_s: float, name: str) -> float:
    """Return the edits a second of so many workers on a new queue.

    Raises
    ------
    RuntimeError
        When an edit was lost or published twice.
    """
    url = submitted(server, edits, name)
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(workers, mp_context=context) as pool:
        list(pool.map(abs, range(workers)))  # the imports of new processes are not what is measured
        begin = time.time() + _START_S
        tasks = [Task(url, folder, f"worker-{number}", cost_s, begin) for number in range(workers)]
        done = list(pool.map(work, tasks))
    if sum(count for count, _ in done) != edits:
        raise RuntimeError(f"{sum(count for count, _ in done)} publications of {edits} edits.")
    return edits / (max(last for _, last in done) - begin)


def main(
    *,
    rounds: Annotated[int, typer.Option(help="Rounds, each with all numbers of workers.")] = 5,
    edits: Annotated[int, typer.Option(help="Edits of a round, for each worker.")] = 512,
    cost_ms: Annotated[float, typer.Option(help="Time that training an edit takes.")] = 20.0,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/worker_scaling.json"),
) -> None:
    """Measure and write the result."""
    console = Console()
    rates: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    with postgres_server() as server:
        for turn in range(rounds):
            for workers in WORKERS:
                name = f"scaling_{turn}_{workers}"
                found = rate(server, workers, edits=edits * workers, cost_s=cost_ms / 1e3, name=name)
                rates[workers].append(round(found, 2))
                console.print(f"round {turn}: {workers} workers, {found:.1f} edits a second")
    one = rates[1]
    result: dict[str, Any] = {
        **provenance(),
        "settings": {"cost_ms": cost_ms, "edits_a_worker": edits, "codebooks": BOOKS, "batch": BATCH},
        "ceiling_a_worker": round(1e3 / cost_ms, 1),
        "workers": {
            str(workers): {
                "edits_a_second": statistics.median(found),
                "times_one_worker": round(statistics.median(a / b for a, b in zip(found, one, strict=True)), 3),
                "rounds": found,
            }
            for workers, found in rates.items()
        },
    }
    write_result(out, result)


if __name__ == "__main__":
    typer.run(main)
