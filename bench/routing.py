"""Routing against what else would find the best entries: the three-pass definition, GEMM and top-k, FAISS flat.

``python -m bench.routing`` writes ``bench/results/routing.json``; with ``--device cuda`` the kernels run. Rounds are
paired: every round asks the same new queries of every side and method, some near a key and some far from all, in orders
that turn round, and ratios are taken within a round. An interval is that of the median by order statistics, at least
95 %. A row is one method asked one sort of queries; `bench.routing_verdicts` says which goal it has. Refining methods
have two: refined scores for every query, and first scores where these are certain.

``mixed``: many codebooks with one query each, in one call as the plugin makes it for a step, against a call for each.
On a CPU that one call goes codebook after codebook.
"""

import gc
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console

from bench.provenance import provenance, quietness, write_result
from bench.routing_books import (
    FAR,
    KINDS,
    METHODS,
    MIB,
    NEAR,
    RAW,
    WHITENED,
    Keys,
    Kind,
    forms_of,
    made_keys,
    near_queries,
)
from bench.routing_clock import Clock, clock_for, paired
from bench.routing_sides import (
    ONE_CALL,
    SINGLE_CALLS,
    copy_of,
    keys_read_again,
    mixed_groups,
    mixed_sides,
    sides_of,
)
from bench.routing_verdicts import Row, mixed_summary, of_method, summary

SORTS: Final = {"near": NEAR, "far": FAR}
"""Of queries, and their cosine to a key."""
_FORMS: Final = [(method, form, rule) for method in METHODS for form, rule in forms_of(method).items()]
_COUNTED_SEED: Final = 99
_BOOKS: Final = 64


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    entries: Annotated[list[int] | None, typer.Option(help="Numbers of entries.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help=f"{', '.join(KINDS)}.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Queries at once.")] = None,
    rounds: Annotated[int, typer.Option(min=10, help="Paired rounds.")] = 10,
    memory: Annotated[int, typer.Option(help="MiB that keys, and a copy of them for FAISS, may take.")] = 8192,
    mixed: Annotated[int, typer.Option(min=0, help=f"Entries in all of {_BOOKS} codebooks; 0: not asked.")] = 10_000,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: as torch chooses.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/routing.json"),
) -> None:
    """Measure every shape; the result is written after each."""
    if threads:
        torch.set_num_threads(threads)
    console, clock = Console(), clock_for(device)
    result: dict[str, Any] = {
        **provenance(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        **(quietness() if device == "cpu" else {}),
        "rounds": rounds,
        "rows": [],
        "mixed": [],
        "left_out": [],
    }
    for shape in [KINDS[name] for name in kind or KINDS]:
        for count in entries or [1000, 10_000, 50_000, 100_000]:
            if too_large(shape, count, memory):
                result["left_out"].append({"kind": shape.name, "entries": count, "why": f"keys above {memory} MiB"})
                continue
            keys = made_keys(shape, count, device)
            for size in batch or [1, 16]:
                _add(result, "rows", measure(shape, keys, size, rounds, memory, clock), out, console)
            del keys
            gc.collect()
        if mixed and shape in (RAW, WHITENED) and not too_large(shape, mixed, memory):
            _add(result, "mixed", measure_mixed(shape, mixed, rounds, device, clock), out, console)
    write_result(out, result)


def _add(result: dict[str, Any], name: str, rows: list[dict[str, Any]], out: Path, console: Console) -> None:
    """Put rows into the result, and write and show them."""
    result[name] += rows
    write_result(out, result)
    for row in rows:
        console.print(shown(row), soft_wrap=True)


def too_large(kind: Kind, entries: int, memory: int) -> bool:
    """Return whether the keys take more than `memory` MiB."""
    return 4 * entries * kind.width > memory * MIB


def measure(kind: Kind, keys: Keys, batch: int, rounds: int, memory: int, clock: Clock) -> list[dict[str, Any]]:
    """Return a row for each method and sort of queries, all from the same rounds."""
    copy = copy_of(keys)
    queries = {
        name: partial(_queries, keys, batch, cosine, place, len(SORTS))
        for place, (name, cosine) in enumerate(SORTS.items())
    }
    times = paired(sides_of(keys, copy, memory=memory), queries, rounds, clock)
    rows = []
    shape = {"kind": kind.name, "width": kind.width, "entries": len(keys.numbers), "batch": batch}
    for method, form, rule in _FORMS:
        for sort, cosine in SORTS.items():
            counted = near_queries(keys, 16, cosine, _COUNTED_SEED)
            row = Row(kind, method, rule, batch, keys.buffer.is_cuda, keys_read_again(keys, counted, rule))
            found = summary(row, of_method(times[sort], method, form), keys, copy.moved)
            rows.append({**shape, "method": form, "sort": sort, **found})
    return rows


def measure_mixed(kind: Kind, entries: int, rounds: int, device: str, clock: Clock) -> list[dict[str, Any]]:
    """Return a row for each method: codebooks with `entries` entries in all and one near query each."""
    keys = made_keys(kind, entries, device)
    rows = []
    for method, rule in METHODS.items():
        groups = mixed_groups(keys, _BOOKS, rule)
        times = paired(mixed_sides(keys, groups), {"near": partial(_each_near, keys, groups)}, rounds, clock)
        shape = {"kind": kind.name, "width": kind.width, "entries": entries, "codebooks": len(groups)}
        rows.append({**shape, "method": method, "sort": "near", **mixed_summary(times["near"], ONE_CALL, SINGLE_CALLS)})
    return rows


def shown(row: dict[str, Any]) -> str:
    """Return a row as a line."""
    asked = f"x{row['batch']}" if "batch" in row else f"in {row['codebooks']} codebooks"
    low, middle, high = (row["ratio"][name] for name in ("low", "median", "high"))
    verdict = "" if row["goal"] is None else f"; goal {row['goal']}: {'met' if row['met'] else 'missed'}"
    spread = f"{row['ratio_of']} {middle:.2f} [{low:.2f}, {high:.2f}]"
    return f"{row['kind']} {row['entries']} {asked} {row['method']}, {row['sort']}: {spread}{verdict}"


def _queries(keys: Keys, batch: int, cosine: float, place: int, sorts: int, number: int) -> torch.Tensor:
    return near_queries(keys, batch, cosine, number * sorts + place)


def _each_near(keys: Keys, groups: list[Any], number: int) -> torch.Tensor:
    """Return a query near a key of each codebook."""
    own = [Keys(keys.buffer[group.key_rows], group.owners) for group in groups]
    return torch.cat([near_queries(book, 1, NEAR, number * len(groups) + place) for place, book in enumerate(own)])


if __name__ == "__main__":
    typer.run(main)
