"""Renders ``docs/benchmarks.md`` from the result files, with a plot of what was paired; measures nothing.

python -m bench.benchmarks_page
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import matplotlib as mpl
import typer
from matplotlib.figure import Figure

from bench.ratios import FILES, Ratio, ratios_of

mpl.use("Agg")
Result = Mapping[str, Any]
_HEAD: Final = """# Benchmarks

Written by `python -m bench.benchmarks_page` from [the result files](../bench/results), which have all pairs, versions
and commands. Ratios are medians of paired rounds, in brackets an interval for the median (at least 95 %). Times of
different machines do not compare; ratios of one run do. A goal is met when the interval's lower end reaches it
less .01.
"""


def _cell(ratio: Ratio, digits: int = 3) -> str:
    median, low, high = (f"{ratio[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(['---'] * len(head))}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _made(result: Result, name: str) -> Iterator[str]:
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    dirty = ", with uncommitted changes" if result["uncommitted_changes"] else ""
    yield ""
    yield (
        f"`{result['command']}` on {result['machine']}, {result['time'][:10]}, {versions}, "
        f"commit {result['commit'][:10]}{dirty} ([numbers](../bench/results/{name}.json))."
    )


def _serving(result: Result) -> Iterator[str]:
    settings = result["settings"]
    yield f"## Serving, model of the {settings['shape']} shape"
    yield ""
    yield (
        f"{settings['requests']} requests a round, {settings['concurrency']} at a time, {settings['rounds']} pairs. "
        "A cell is keys-entries-tenants, tokens of prompt and answer, and the share of edited requests; "
        "`unedited` asks the base model."
    )
    yield ""
    rows = []
    for row in result["rows"]:
        goal = "" if row["goal"] is None else f"{row['goal']:.2f}, {'met' if row['met'] else 'missed'}"
        more = [_cell(row[f"ttft_{at}_more_ms"], 1) for at in ("p50", "p99")]
        later = [_cell(row[f"tpot_{at}_ratio"]) for at in ("p50", "p99")]
        rows.append([row["cell"], _cell(row["tokens_ratio"]), goal, *more, *later])
    head = ["cell", "tokens a second, of plain vLLM's", "goal", "TTFT p50 + ms", "p99 + ms", "TPOT p50 x", "p99 x"]
    yield from _table(head, rows)


def _routing(result: Result) -> Iterator[str]:
    yield f"## Routing alone, {result['device']}, {result['threads']} threads"
    yield ""
    yield "Times ours that the others take: the definition's three readings, one GEMM and top-k, FAISS's flat index."
    yield ""
    rows = []
    for row in result["rows"]:
        others = [row["sides"].get(side) for side in ("three_passes", "gemm_top_k", "faiss_flat")]
        times = ["" if side is None else _cell(side["times_ours"], 2) for side in others]
        shape = [row["kind"], f"{row['entries']:,}", str(row["batch"]), row["method"]]
        ours = f"{row['sides']['ours']['milliseconds']:.2f}"
        rows.append([*shape, ours, *times, _cell(row["share_of_copy_bandwidth"], 2)])
    head = [
        "keys",
        "entries",
        "queries",
        "method",
        "ours, ms",
        "three readings",
        "GEMM",
        "FAISS",
        "share of copy bandwidth",
    ]
    yield from _table(head, rows)


def _updates(result: Result) -> Iterator[str]:
    yield "## Updates of a served codebook (demo model)"
    yield ""
    submitted, rolled, bulk = result["submission"], result["rollback"], result["bulk"]
    rows = [
        [f"submission {name.replace('_', ' ')}", *(f"{submitted[f'{name}_ms'][at]:.0f}" for at in ("p50", "p99"))]
        for name in ("to_published", "to_first_answer", "to_serving")
    ]
    rows.append(["rollback to serving", *(f"{rolled[f'{at}_ms']:.0f}" for at in ("p50", "p99"))])
    yield from _table(["what", "p50, ms", "p99, ms"], rows)
    yield ""
    loads = [
        [name.replace("_", " "), f"{bulk[name]['median_s']:.1f}", f"{bulk[name]['entries_a_second']:,.0f}"]
        for name in ("import", "import_to_serving", "load")
    ]
    yield from _table([f"{bulk['entries']:,} entries at once", "s", "entries a second"], loads)


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
    "serving_gpu": _serving,
    "routing": _routing,
    "routing_gpu": _routing,
    "updates": _updates,
    "memory": _memory,
    "method": _method,
}


def page(results: Path, plot: Path) -> str:
    """Return the page of all result files that are there, and draw their ratios into `plot`."""
    parts = [_HEAD]
    for name, section in _SECTIONS.items():
        path = results / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            parts.append("\n".join([*section(result), *_made(result, name)]))
    drawn = [ratios for name in FILES if name.startswith("serving") for ratios in [_ratios(results, name)] if ratios]
    if drawn:
        _draw(drawn[0], plot)
        parts.append(f"![Tokens a second with the plugin, of plain vLLM's](../bench/results/{plot.name})")
    return "\n\n".join(parts).replace("\n\n\n", "\n\n") + "\n"


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
    out.write_text(page(results, results / "serving.png"), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
