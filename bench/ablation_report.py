"""Tables and plots of `bench.ablations`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from bench.ablation_sections import Section

mpl.use("Agg")
_WIDTH, _HEIGHT = 4.2, 3.2
_SHOWN: Final = ("recall", "near", "recall_at_1", "recall_at_5", "auc", "top_1", "fires_at_90")
"""Columns on the console, where they exist."""
HEADINGS: Final = {
    "threshold": "c",
    "recall": "recall at c",
    "near": "near at c",
    "unrelated": "unrelated at c",
    "recall_at_1": "recall at 1 % near",
    "recall_at_5": "recall at 5 % near",
    "auc": "AUC",
    "top_1": "top-1",
    "error_rms": "error of all scores, rms",
    "error_max": "error of all scores, largest",
    "best_error_rms": "error of the best score, rms",
    "other_best": "other best entry",
    "ties": "ties for the best",
    **{f"fires_at_{at}": f"other relation fires at recall 0.{at}" for at in ("80", "90", "95")},
    **{
        f"{key}_{name}": f"{key} at {words}"
        for name, words in {"same_c": "the c without a step", "published_c": "the published c or radius"}.items()
        for key in ("recall", "near", "unrelated")
    },
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: shares over x, a line for each series and share."""

    section: str
    title: str
    x: str
    measures: Mapping[str, str]
    """Shares, and their names in the legend."""
    series: Mapping[str, str]
    """Series of the section, and their names in the legend."""
    log: bool = False


def markdown(result: Mapping[str, Any], sections: Sequence[Section], plots: Mapping[str, str]) -> str:
    """Return the whole result as a page; `plots` names the files of some sections."""
    seeds = ", ".join(map(str, result["seeds"]))
    about = (
        f"`{result['model']}`: {result['edits']} edits, {result['asked']} questions of each other kind, "
        f"seeds {seeds}; {result['cpu_seconds']:.0f} s of CPU time. {result['about']}"
    )
    parts = [f"# Routing ablations\n\n{about}"]
    for section in sections:
        rows = result["sections"][section.name]
        plot = f"\n\n![{section.title}]({plots[section.name]})" if section.name in plots else ""
        parts.append(f"## {section.title}\n\n{section.note}{plot}\n\n{_grid(rows, section.x)}")
    return "\n\n".join(parts) + "\n"


def _grid(rows: Sequence[Mapping[str, Any]], x: str) -> str:
    names = [name for name in HEADINGS if any(name in row for row in rows)]
    lines = [["series", x, *(HEADINGS[name] for name in names)], ["---"] * (2 + len(names))]
    lines += [[row["series"], _plain(row["x"]), *(_cell(row.get(name)) for name in names)] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def show(console: Console, section: Section, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a section's most telling columns."""
    names = [name for name in _SHOWN if any(name in row for row in rows)]
    table = Table(title=section.title)
    for heading in ("series", section.x, *(HEADINGS[name] for name in names)):
        table.add_column(heading)
    for row in rows:
        table.add_row(row["series"], _plain(row["x"]), *(_cell(row.get(name), wide=False) for name in names))
    console.print(table)


def _plain(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:g}"


def _cell(value: Any, *, wide: bool = True) -> str:
    if value is None:
        return ""
    if not isinstance(value, dict):
        return f"{value:.4f}"
    low, high = value["interval"]
    return f"{value['share']:.3f} ({low:.3f}-{high:.3f})" if wide else f"{value['share']:.3f}"


def draw_panels(path: Path, panels: Sequence[Panel], sections: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write one picture with the panels side by side, two in a row."""
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(_WIDTH * 2, _HEIGHT * rows), dpi=90, layout="constrained")
    for axes, panel in zip(figure.subplots(rows, 2, squeeze=False).flat, panels, strict=True):
        _draw(axes, panel, sections[panel.section])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def _draw(axes: Axes, panel: Panel, rows: Sequence[Mapping[str, Any]]) -> None:
    for series, name in panel.series.items():
        for (measure, what), style in zip(panel.measures.items(), ("-", "--", ":"), strict=False):
            points = [(row["x"], row[measure]) for row in rows if row["series"] == series]
            label = ", ".join(part for part in (name, what) if part)
            (line,) = axes.plot(
                [x for x, _ in points], [value["share"] for _, value in points], style, marker=".", label=label
            )
            low, high = ([value["interval"][end] for _, value in points] for end in (0, 1))
            axes.fill_between([x for x, _ in points], low, high, color=line.get_color(), alpha=0.12)
    axes.set(title=panel.title, xlabel=panel.x, xscale="log" if panel.log else "linear")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, framealpha=0.5)
