"""What a large codebook costs the registry: bytes an edit and a revision, and the time of each call.

Fills one codebook with 100,000 edits and 10,000 revisions (imports, publications of which every third supersedes an
edit, rollbacks, near and far), then measures the calls on it. No training and no artifacts: the digests are made up.

    python -m bench.registry_size --out bench/results/registry_size.json
    python -m bench.registry_size --url postgresql+psycopg://HOST/DATABASE
"""

import hashlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress
from sqlalchemy import create_engine, text

from bench.made_entries import active_edit
from bench.provenance import provenance, write_result
from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId, new_edit_id
from horen_vllm.registry import migrate
from horen_vllm.registry.models import EditSpec, Publication
from horen_vllm.registry.portable import ImportedEdit
from horen_vllm.registry.store import SqlRegistry
from horen_vllm.registry.submission import Submission
from horen_vllm.testing.postgres import postgres_server

BOOK: Final = CodebookName(DEFAULT_TENANT, "large")
FINGERPRINT: Final = "f" * 64
IMPORTS: Final = 10
_BATCH: Final = 100
_REPEATS: Final = 20
_TABLES: Final = (
    "edits", "memberships", "revisions", "audit_log", "attempts", "requests", "codebooks",
)  # fmt: skip


@dataclass(slots=True)
class Filler:
    """Fills the codebook; what it makes follows from the seed."""

    registry: SqlRegistry
    numbers: Iterator[int] = field(default_factory=count)
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    published: list[EditId] = field(default_factory=list)

    def spec(self) -> EditSpec:
        """Return an edit that nobody has submitted."""
        number = next(self.numbers)
        return EditSpec(prompt=f"Who has led the company number {number}?", target=f"Person {number}")

    def bring_in(self, edits: int) -> None:
        """Import edits, as one revision."""
        self.registry.import_edits(BOOK, map(self._imported, range(1, edits + 1)), threshold=0.85, entries=edits)

    def _imported(self, sequence: int) -> ImportedEdit:
        edit_id = new_edit_id()
        digest = hashlib.sha256(edit_id.encode()).hexdigest()
        edit = active_edit(edit_id, sequence, self.spec(), digest)
        return ImportedEdit(edit=edit, edit_id=edit_id, artifact=digest)

    def publish(self, edits: int) -> None:
        """Submit, claim and publish edits together, a revision each; every third supersedes an earlier one."""
        self.registry.submit_many([Submission(codebook=BOOK, spec=self.spec()) for _ in range(edits)])
        claims = self.registry.claim("bench", lease_s=60.0, fingerprint=FINGERPRINT, limit=edits)
        base = self.registry.get_codebook(BOOK).revision
        batch = []
        for index, claim in enumerate(claims):
            digest = hashlib.sha256(claim.edit.edit_id.encode()).hexdigest()
            old = (self.chance.choice(self.published),) if self.published and index % 3 == 0 else ()
            batch.append((claim, Publication(artifact=digest, base_revision=base + index, supersedes=old)))
        self.registry.publish(batch)
        self.published += [claim.edit.edit_id for claim in claims]

    def roll_back(self) -> None:
        """Restore a revision: one of the last ten, in one case of a hundred any."""
        newest = self.registry.get_codebook(BOOK).revision
        near = self.chance.random() < 0.99
        self.registry.rollback(BOOK, self.chance.randint(max(1, newest - 10) if near else 2, newest))


def fill(registry: SqlRegistry, edits: int, revisions: int, size: Callable[[], int]) -> dict[str, Any]:
    """Fill the codebook and return what its parts weigh."""
    parameters = MethodParameters(preset="cosine", threshold=0.85)
    registry.create_codebook(BOOK, model="m", fingerprint=FINGERPRINT, site="s", parameters=parameters)
    filler = Filler(registry)
    rollbacks = (revisions - 1 - IMPORTS) // 10
    publications = revisions - 1 - IMPORTS - rollbacks
    imported = edits - publications
    begun, empty = time.perf_counter(), size()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("filling", total=edits)
        for number in range(IMPORTS):
            filler.bring_in(share(imported, IMPORTS, number))
            bar.advance(task, share(imported, IMPORTS, number))
        after_imports, batches = size(), -(-publications // _BATCH)
        for number in range(batches):
            filler.publish(share(publications, batches, number))
            bar.advance(task, share(publications, batches, number))
            for _ in range(share(rollbacks, batches, number)):
                filler.roll_back()
    codebook = registry.get_codebook(BOOK)
    return {
        "edits": sum(1 for _ in all_edits(registry)),
        "revisions": codebook.revision,
        "entries": codebook.entry_count,
        "fill_s": round(time.perf_counter() - begun, 1),
        "bytes": size() - empty,
        "bytes_an_imported_edit": round((after_imports - empty) / imported, 1),
        "bytes_a_published_edit_with_its_revision": round((size() - after_imports) / publications, 1),
    }


def share(whole: int, parts: int, number: int) -> int:
    """Return how much of `whole` the part `number` has, so that all together have it."""
    return whole * (number + 1) // parts - whole * number // parts


def all_edits(registry: SqlRegistry) -> Iterator[EditId]:
    """Yield the edits of the codebook."""
    after = 0
    while page := registry.list_edits(BOOK, after_sequence=after, limit=1000):
        yield from (edit.edit_id for edit in page)
        after = page[-1].sequence


def measure(registry: SqlRegistry) -> dict[str, Any]:
    """Return the median and the longest time of each call in milliseconds."""
    filler = Filler(registry, numbers=count(10_000_000))
    newest, entries = registry.get_codebook(BOOK).revision, registry.entries(BOOK)
    some, last = entries[-1].edit_id, entries[-1].sequence
    retiring = iter(entries)
    reads: dict[str, Callable[[], object]] = {
        "get_codebook": lambda: registry.get_codebook(BOOK),
        "get_edit": lambda: registry.get_edit(some),
        "entries, current": lambda: registry.entries(BOOK),
        "entries, half-way back": lambda: registry.entries(BOOK, newest // 2),
        "delta of the last revision": lambda: registry.delta(BOOK, newest - 1),
        "delta of the last 1,000 revisions": lambda: registry.delta(BOOK, newest - 1_000),
        "delta from nothing": lambda: registry.delta(BOOK, 0),
        "diff of neighbours": lambda: registry.diff(BOOK, from_revision=newest - 1, limit=1000),
        "diff over 1,000 revisions, first page": lambda: registry.diff(BOOK, from_revision=newest - 1_000, limit=1000),
        "diff from nothing, first page": lambda: registry.diff(BOOK, from_revision=0, limit=1000),
        "diff from nothing, last page": lambda: registry.diff(
            BOOK, from_revision=0, after_sequence=last - 1_000, limit=1000
        ),
        "list_edits, first page of 100": lambda: registry.list_edits(BOOK, limit=100),
        "list_edits, last page of 100": lambda: registry.list_edits(BOOK, after_sequence=last - 100, limit=100),
        "list_revisions, last page of 100": lambda: registry.list_revisions(BOOK, after=newest - 100, limit=100),
        "portable_edits, page of 500 half-way": lambda: registry.portable_edits(
            BOOK, newest, after_sequence=last // 2, limit=500
        ),
    }
    writes: dict[str, Callable[[], object]] = {
        "submit": lambda: registry.submit(BOOK, filler.spec()),
        "submit, claim and publish": lambda: publish_one(registry, filler),
        "rollback to the revision before": lambda: registry.rollback(BOOK, registry.get_codebook(BOOK).revision - 1),
        "rollback over 1,000 revisions and back": lambda: there_and_back(registry, 1_000),
        "retire_edit": lambda: registry.retire_edit(next(retiring).edit_id),
    }
    return {name: timed(call) for name, call in {**reads, **writes}.items()}


def publish_one(registry: SqlRegistry, filler: Filler) -> None:
    """Submit an edit, and take the oldest of those that wait all the way."""
    registry.submit(BOOK, filler.spec())
    claims = registry.claim("bench", lease_s=60.0, fingerprint=FINGERPRINT, limit=1)
    base = registry.get_codebook(BOOK).revision
    registry.publish([(claim, Publication(artifact="a" * 64, base_revision=base)) for claim in claims])


def there_and_back(registry: SqlRegistry, distance: int) -> None:
    """Restore an old revision and then the one that was current."""
    newest = registry.get_codebook(BOOK).revision
    registry.rollback(BOOK, newest - distance)
    registry.rollback(BOOK, newest)


def timed(call: Callable[[], object]) -> dict[str, float]:
    """Return the median and the longest of a few times, in milliseconds; the first one warms up."""
    call()
    times = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begun))
    return {"median_ms": round(statistics.median(times), 3), "longest_ms": round(max(times), 3)}


def database_bytes(url: str) -> Callable[[], int]:
    """Return what asks how large the database is, with everything in its own files."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")

    def ask() -> int:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
                pages = connection.scalar(text("PRAGMA page_count")) - connection.scalar(text("PRAGMA freelist_count"))
                return int(pages * connection.scalar(text("PRAGMA page_size")))
            return int(connection.scalar(text("SELECT pg_database_size(current_database())")))

    return ask


def table_bytes(url: str) -> dict[str, int]:
    """Return the bytes of each table with its indexes."""
    engine = create_engine(url)
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            query = text("SELECT pg_total_relation_size(CAST(:name AS regclass))")
            return {name: int(connection.scalar(query, {"name": name})) for name in _TABLES}
        query = text(
            "SELECT SUM(pgsize) FROM dbstat JOIN sqlite_master USING (name) WHERE tbl_name = :name AND aggregate = TRUE"
        )
        return {name: int(connection.scalar(query, {"name": name}) or 0) for name in _TABLES}


def run(url: str, edits: int, revisions: int) -> dict[str, Any]:
    """Fill an empty database and measure it."""
    migrate.upgrade(url)
    registry = SqlRegistry(url)
    try:
        filled = fill(registry, edits, revisions, database_bytes(url))
        return {**filled, "table_bytes": table_bytes(url), "calls": measure(registry)}
    finally:
        registry.close()


@contextmanager
def databases(url: str | None) -> Iterator[dict[str, str]]:
    """Give empty databases by name: the one at `url`, else SQLite in a folder and a PostgreSQL server of its own."""
    if url is not None:
        yield {url.partition(":")[0]: url}
        return
    with tempfile.TemporaryDirectory() as folder, postgres_server() as server:
        yield {
            "sqlite": f"sqlite:///{Path(folder) / 'registry.db'}",
            "postgresql": server.create_database("bench"),
        }


def main(
    *,
    out: Annotated[Path, typer.Option(help="File for the result.")] = Path("bench/results/registry_size.json"),
    url: Annotated[str | None, typer.Option(help="An empty database (default: a SQLite and a PostgreSQL one).")] = None,
    edits: Annotated[int, typer.Option(min=1_000)] = 100_000,
    revisions: Annotated[int, typer.Option(min=100)] = 10_000,
) -> None:
    """Fill, measure, and write the result."""
    result: dict[str, Any] = {"provenance": provenance(), "databases": {}}
    with databases(url) as chosen:
        for name, address in chosen.items():
            result["databases"][name] = run(address, edits, revisions)
            Console(stderr=True).print(name, result["databases"][name])
    write_result(out, result)


if __name__ == "__main__":
    typer.run(main)
