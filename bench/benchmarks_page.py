"""Renders ``docs/benchmarks.md`` from the result files, with a plot of what was paired; measures nothing.

python -m bench.benchmarks_page
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import matplotlib as mpl
import typer
from matplotlib.figure import Figure

from bench.ratios import FILES, Ratio, ratios_of

mpl.use("Agg")
Result = Mapping[str, Any]
_FULL: Final = "full"
"""Folder of what `make bench-full` measures, below the one of `make bench`."""
_HEAD: Final = """# Benchmarks

Written by `python -m bench.benchmarks_page` from the result files, which have all pairs, versions and commands. Ratios
are medians of paired rounds, in brackets an interval for the median (at least 95 %). Times of different machines do not
compare; ratios of one run do. A goal is met when the interval's lower end reaches it less .01, and where there is a
second goal, for the time to the first token, when the interval's upper end does not exceed that.
"""


def _cell(ratio: Ratio, digits: int = 3) -> str:
    median, low, high = (f"{ratio[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(['---'] * len(head))}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _made(result: Result, link: str) -> Iterator[str]:
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    commit = f"commit {result['commit'][:10]}" if result["commit"] else "commit unknown"
    device = "; ".join(filter(None, [result.get("processor"), *result.get("gpus", ())]))
    machine = f"{result['machine']} ({device})" if device else result["machine"]
    yield ""
    yield f"`{result['command']}` on {machine}, {result['time'][:10]}, {versions}, {commit} ([numbers]({link}))."
    for warning in warnings(result):
        yield f"**{warning}**"


def warnings(result: Result) -> list[str]:
    """Return what keeps a result from being taken at its word."""
    changes = {True: "Made with uncommitted changes.", None: "Whether the code had uncommitted changes is unknown."}
    found = [changes[result["uncommitted_changes"]]] if result["uncommitted_changes"] is not False else []
    if result.get("quiet") is False:
        found.append("The machine was not idle when the run began.")
    return found


def verdict(met: bool | None) -> str:
    """Return how a table says whether a goal is met; empty without a goal."""
    return "" if met is None else "met" if met else "**not met**"


def _serving(result: Result) -> Iterator[str]:
    settings = result["settings"]
    yield f"## Serving, model of the {settings['shape']} shape, {settings['requests']} requests a round"
    yield ""
    yield (
        f"{settings['concurrency']} requests at a time, {settings['rounds']} pairs of rounds. "
        "A cell names the keys, the entries in how many codebooks (all of one tenant; to the engine a codebook is one, "
        "whosever it is), the tokens of prompt and answer, and the share of requests that are edited; `unedited` asks "
        "the base model of a server with codebooks. The server holds every entry twice, once in a codebook where all "
        "fire and once in one where none does; a request is routed through one of them. No prompt was asked twice."
    )
    yield ""
    rows = []
    for row in result["rows"]:
        if "error" in row:
            rows.append([row["cell"], "could not be measured", _serving_goal(row), verdict(row["met"]), *[""] * 4])
            continue
        more = [_cell(row[f"ttft_{at}_more_ms"], 1) for at in ("p50", "p99")]
        later = [_cell(row[f"tpot_{at}_ratio"]) for at in ("p50", "p99")]
        shown = [row["cell"], _cell(row["tokens_ratio"]), _serving_goal(row), verdict(row["met"])]
        rows.append([*shown, *more, *later])
    head = ["cell", "tokens a second, of plain vLLM's", "goal", "", "TTFT p50 + ms", "p99 + ms", "TPOT p50 x", "p99 x"]
    yield from _table(head, rows)


def _serving_goal(row: Result) -> str:
    goals = [] if row["goal"] is None else [f"{row['goal']:.2f}"]
    if row.get("ttft_goal_ms") is not None:
        goals.append(f"TTFT p50 + {row['ttft_goal_ms']:g} ms")
    return ", ".join(goals)


def _routing(result: Result) -> Iterator[str]:
    kinds = " and ".join(dict.fromkeys(row["kind"] for row in result["rows"]))
    yield f"## Routing alone, {kinds} keys, {result['device']}, {result['threads']} threads"
    yield ""
    yield (
        "Times ours that the others take: the definition's three readings, one GEMM and top-k, FAISS's flat index. "
        "Near queries resemble a key, far ones none. Readings: how often all keys are read, ours and the definition's. "
        "`first scores`: decided before refinement where that is certain (`horen serve --first-scores`)."
    )
    yield ""
    rows = []
    for row in result["rows"]:
        others = [row["sides"].get(side) for side in ("three_passes", "gemm_top_k", "faiss_flat")]
        times = ["" if side is None else _cell(side["times_ours"], 2) for side in others]
        shape = [row["kind"], f"{row['entries']:,}", str(row["batch"]), row["method"], row["sort"]]
        ours = f"{row['sides']['ours']['milliseconds']:.2f}"
        read = f"{row['readings']['ours']:.2f} of {row['readings']['three_passes']}"
        share = _cell(row["share_of_copy_bandwidth"], 2)
        rows.append([*shape, ours, read, *times, share, *_routing_goal(row)])
    head = ["keys", "entries", "queries", "method", "sort", "ours, ms", "readings", "three readings", "GEMM", "FAISS"]
    yield from _table([*head, "share of copy bandwidth", "goal", ""], rows)
    if notes := {row["note"]: None for row in result["rows"] if row.get("note")}:
        yield ""
        yield from (f"- {note[0].upper()}{note[1:]}." for note in notes)
    if mixed := result.get("mixed"):
        yield ""
        yield from _table(
            ["keys", "entries", "codebooks", "method", "one call, ms", "a call for each, times that"],
            [_mixed(row) for row in mixed],
        )


def _mixed(row: Result) -> list[str]:
    shape = [row["kind"], f"{row['entries']:,}", str(row["codebooks"]), row["method"]]
    return [*shape, f"{row['sides']['one_call']['milliseconds']:.2f}", _cell(row["ratio"], 2)]


def _routing_goal(row: Result) -> list[str]:
    if row.get("goal") is None:
        return ["", ""]
    found = f" ({_cell(row['ratio'], 2)})" if row.get("ratio") else ""
    return [f"{row['goal']}{found}", verdict(row.get("met"))]


def _updates(result: Result) -> Iterator[str]:
    yield "## Updates of a served codebook (demo model)"
    for part, why in result.get("failed", {}).items():
        yield ""
        yield f"**Not measured: {part} ({why}).**"
    if rows := list(_single_changes(result)):
        yield ""
        yield from _table(["what", "p50, ms", "p99, ms"], rows)
    if steps := result.get("steps"):
        yield ""
        yield from _table(["engine steps", "ratio"], list(_steps(steps)))
    if bulk := result.get("bulk"):
        yield ""
        loads = [
            [name.replace("_", " "), f"{bulk[name]['median_s']:.1f}", f"{bulk[name]['entries_a_second']:,.0f}"]
            for name in ("import", "import_to_serving", "load")
        ]
        yield from _table([f"{bulk['entries']:,} entries at once", "s", "entries a second"], loads)


def _single_changes(result: Result) -> Iterator[list[str]]:
    for name in ("to_published", "to_first_answer", "to_serving"):
        if submitted := result.get("submission"):
            times = submitted[f"{name}_ms"]
            intervals = times.get("p50_interval"), times.get("p99_interval")
            yield [f"submission {name.replace('_', ' ')}", *_percentiles((times["p50"], times["p99"]), intervals)]
    if rolled := result.get("rollback"):
        intervals = rolled.get("p50_interval_ms"), rolled.get("p99_interval_ms")
        yield ["rollback to serving", *_percentiles((rolled["p50_ms"], rolled["p99_ms"]), intervals)]
    if steps := result.get("steps"):
        flips = steps["flips"]
        yield ["a flip, between two engine steps", f"{flips['p50_ms']:.2f}", f"{flips['p99_ms']:.2f}"]


def _percentiles(values: Sequence[float], intervals: Sequence[Sequence[float | None] | None]) -> Iterator[str]:
    for value, ends in zip(values, intervals, strict=True):
        low, high = ends or (None, None)
        spread = f" [{low:.0f}, {'?' if high is None else f'{high:.0f}'}]" if low is not None else ""
        yield f"{value:.0f}{spread}"


def _steps(steps: Result) -> Iterator[list[str]]:
    yield ["the step after a flip, of the one before", _cell(steps["step_after_to_before_a_flip"])]
    yield ["two steps without a flip", _cell(steps["step_to_step_without_a_flip"])]
    staging = steps["staging"]
    for at in ("p50", "p99"):
        yield [f"{at} while entries are staged, of {at} in quiet", _cell(staging[f"{at}_ratio"])]


def _memory(result: Result) -> Iterator[str]:
    yield "## Memory that an entry takes on a server"
    yield ""
    rows = []
    for model, found in result["models"].items():
        for row in found["rows"]:
            parts = [f"{row['bytes_an_entry'][part]:,.0f}" for part in ("keys", "values", "tables", "all")]
            paper = f"{row['paper_bytes_an_entry']['counted']:,}"
            rows.append([model, row["keys"], row["value"], *parts, paper, f"{row['kv_tokens_for_entries']['10000']:,}"])
    head = ["model", "keys", "value", "key bytes", "value bytes", "tables", "all", "the paper counts"]
    yield from _table([*head, "KV tokens for 10,000 entries"], rows)


def _method(result: Result) -> Iterator[str]:
    yield "## Against the paper's loop in transformers' `generate`"
    yield ""
    names = list(result["rows"][0]["ratios"])
    rows = [[f"{row['entries']:,}", *(_cell(row["ratios"][name], 2) for name in names)] for row in result["rows"]]
    yield from _table(["entries", *names], rows)


_SECTIONS: Final[Mapping[str, Callable[[Result], Iterator[str]]]] = {
    "serving_cpu": _serving,
    "serving_cpu_long": _serving,
    "serving_cpu_more": _serving,
    "serving_cpu_grid": _serving,
    "serving_cpu_chat": _serving,
    "serving_gpu": _serving,
    "routing": _routing,
    "routing_large": _routing,
    "routing_wide": _routing,
    "routing_gpu": _routing,
    "updates": _updates,
    "memory": _memory,
    "method": _method,
}


def page(results: Path, plot: Path, page_folder: Path) -> str:
    """Return the page of all result files that are there, as a file in some folder; draw their ratios into `plot`."""
    parts = [_HEAD, *_parts(results, page_folder)]
    drawn = [ratios for name in FILES if name.startswith("serving") for ratios in [_ratios(results, name)] if ratios]
    if drawn:
        _draw(drawn[0], plot)
        parts.append(f"![Tokens a second with the plugin, of plain vLLM's]({_link(plot, page_folder)})")
    if full := list(_parts(results / _FULL, page_folder)):
        parts += ["# The whole grid\n\nWritten by `make bench-full`, in a run of its own.", *full]
    return "\n\n".join(parts).replace("\n\n\n", "\n\n") + "\n"


def _parts(results: Path, page_folder: Path) -> Iterator[str]:
    for name, section in _SECTIONS.items():
        path = results / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            yield "\n".join([*section(result), *_made(result, _link(path, page_folder))])


def _link(path: Path, page_folder: Path) -> str:
    return Path(os.path.relpath(path, page_folder)).as_posix()


def _ratios(results: Path, name: str) -> dict[str, Ratio]:
    path = results / f"{name}.json"
    return ratios_of(path) if path.exists() else {}


def _draw(ratios: Mapping[str, Ratio], plot: Path) -> None:
    figure = Figure(figsize=(7.0, 0.4 * len(ratios) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for place, ratio in enumerate(ratios.values()):
        errors = [[ratio["median"] - ratio["low"]], [ratio["high"] - ratio["median"]]]
        axes.errorbar(ratio["median"], place, xerr=errors, fmt="o", color="tab:blue")
    axes.axvline(1.0, color="0.7")
    axes.set_yticks(range(len(ratios)), [label.partition(": ")[2] for label in ratios])
    axes.invert_yaxis()
    axes.set_xlabel("tokens a second, of plain vLLM's")
    figure.savefig(plot, dpi=120)


def main(
    results: Annotated[Path, typer.Option(help="Folder of the result files.")] = Path("bench/results"),
    out: Annotated[Path, typer.Option(help="The page.")] = Path("docs/benchmarks.md"),
) -> None:
    """Write the page and its plot."""
    out.write_text(page(results, results / "serving.png", out.parent), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
