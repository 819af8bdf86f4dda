"""Routing against what else would find the best entries: the three-pass definition, GEMM and top-k, FAISS flat.

``python -m bench.routing`` writes ``bench/results/routing.json``; with ``--device cuda`` the kernels run. Rounds are
paired: every round asks the same new queries of every side, in an order that turns round, and ratios are taken within
a round. An interval is that of the median by order statistics, at least 95 %.
"""

import gc
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console

from bench.intervals import interval
from bench.provenance import provenance, write_result
from bench.routing_books import KINDS, METHODS, MIB, Keys, Kind, made_keys, near_queries
from horen_vllm.core.match import KeyTable, route_tensors
from horen_vllm.core.presets import MethodParameters
from horen_vllm.kernels import dispatch
from horen_vllm.kernels.route import route_triton

Side = Callable[[torch.Tensor], object]
GOALS: Final = {
    "raw, one query, with refinement": "three_passes / ours >= 2.5",
    "whitened": "faiss_flat / ours >= 1 on a CPU",
    "whitened on a GPU": "share_of_copy_bandwidth >= 0.8",
}


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    entries: Annotated[list[int] | None, typer.Option(help="Numbers of entries.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="raw, whitened.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Queries at once.")] = None,
    rounds: Annotated[int, typer.Option(min=10, help="Paired rounds.")] = 10,
    memory: Annotated[int, typer.Option(help="MiB that keys, and a copy of them for FAISS, may take.")] = 8192,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: as torch chooses.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/routing.json"),
) -> None:
    """Measure every shape; the result is written after each."""
    if threads:
        torch.set_num_threads(threads)
    console = Console()
    load = os.getloadavg()[0]
    result: dict[str, Any] = {
        **provenance(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load_before": load,
        "quiet": device == "cuda" or load < 0.5,
        "rounds": rounds,
        "goals": GOALS,
        "rows": [],
        "left_out": [],
    }
    for name in kind or list(KINDS):
        for count in entries or [1000, 10_000, 50_000, 100_000]:
            if 4 * count * KINDS[name].width > memory * MIB:
                result["left_out"].append({"kind": name, "entries": count, "why": f"keys above {memory} MiB"})
                continue
            keys = made_keys(KINDS[name], count, device)
            for size in batch or [1, 16]:
                result["rows"] += _rows(KINDS[name], keys, size, rounds, memory, console)
                write_result(out, result)
            del keys
            gc.collect()
    write_result(out, result)


def _rows(kind: Kind, keys: Keys, batch: int, rounds: int, memory: int, console: Console) -> list[dict[str, Any]]:
    plain: dict[str, Side] = {"gemm_top_k": partial(_gemm_top_k, keys.buffer), "copy": partial(_copy, keys.buffer)}
    if not keys.buffer.is_cuda and 2 * keys.bytes <= memory * MIB:
        plain["faiss_flat"] = _faiss_flat(keys.buffer)
    rows = []
    for method, rule in METHODS.items():
        sides = {"ours": _ours(keys, rule), "three_passes": _three_passes(keys, rule), **plain}
        if keys.buffer.is_cuda and not rule["steps"]:
            sides["ours_matrix_units"] = _matrix(keys, rule)
        times = _paired(sides, keys, batch, rounds)
        rows.append({"kind": kind.name, "width": kind.width, "entries": len(keys.numbers), "batch": batch})
        rows[-1] |= {"method": method, **_summary(times, keys)}
        ratios = {name: round(row["times_ours"]["median"], 2) for name, row in _sides(times).items()}
        console.print(f"{kind.name} {len(keys.numbers)} x{batch} {method}: {ratios} times ours")
    return rows


def _ours(keys: Keys, rule: dict[str, Any]) -> Side:
    numbers = keys.numbers
    return lambda queries: dispatch.route(queries, keys.buffer, numbers, numbers, numbers, **rule)


def _matrix(keys: Keys, rule: dict[str, Any]) -> Side:
    numbers = keys.numbers
    return lambda queries: route_triton(queries, keys.buffer, numbers, numbers, numbers, **rule, matrix=True)


def _three_passes(keys: Keys, rule: dict[str, Any]) -> Side:
    table = KeyTable(keys.buffer, keys.numbers, keys.numbers)
    parameters = MethodParameters(preset="bench", **rule)
    return lambda queries: route_tensors(queries, table, parameters)


def _gemm_top_k(buffer: torch.Tensor, queries: torch.Tensor) -> object:
    return (queries @ buffer.T).topk(min(2, len(buffer)))


def _copy(buffer: torch.Tensor, _queries: torch.Tensor) -> object:
    """Read all keys and write them, a part at a time: twice the bytes of a reading."""
    return [part.clone() for part in torch.split(buffer, max(1, (64 << 20) // (4 * buffer.shape[1])))]


def _faiss_flat(buffer: torch.Tensor) -> Side:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(buffer.shape[1])
    index.add(buffer.numpy())
    return lambda queries: index.search(queries.numpy(), 2)


def _paired(sides: dict[str, Side], keys: Keys, batch: int, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-2, rounds):
        queries = near_queries(keys, batch, 0.6 if number % 2 else 0.95, number + 2)
        for name in list(sides)[:: -1 if number % 2 else 1]:
            seconds = _seconds(partial(sides[name], queries), on_gpu=keys.buffer.is_cuda)
            if number >= 0:
                times[name].append(seconds)
    return times


def _seconds(ask: Callable[[], object], *, on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    began = time.perf_counter()
    ask()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _summary(times: dict[str, list[float]], keys: Keys) -> dict[str, Any]:
    copied = [2.0 * keys.bytes / seconds for seconds in times["copy"]]
    read = [keys.bytes / seconds for seconds in times["ours"]]
    shares = [own / best for own, best in zip(read, copied, strict=True)]
    return {
        "sides": _sides(times),
        "copy_gb_a_second": median(copied) / 1e9,
        "share_of_copy_bandwidth": interval(shares),
    }


def _sides(times: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "milliseconds": 1000.0 * median(seconds),
            "times_ours": interval([other / own for other, own in zip(seconds, times["ours"], strict=True)]),
        }
        for name, seconds in times.items()
    }


if __name__ == "__main__":
    typer.run(main)
