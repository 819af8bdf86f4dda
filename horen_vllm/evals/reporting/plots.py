"""The report's plots, as SVG."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from horen_vllm.evals.reporting.summary_parts import Number

_WIDTH, _HEIGHT, _COLUMNS = 3.9, 3.0, 4
_BINS: Final = 40
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Told apart by most people, colour-blind or not; a series also has a marker of its own."""
_MARKERS: Final = "os^DvPX*"


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture and what it shows in words."""

    alt: str
    svg: str

    @property
    def source(self) -> str:
        """The picture as the address of an image: it stands alone, and nothing in it can run."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


@dataclass(frozen=True, slots=True)
class Curves:
    """One panel of lines.

    Attributes
    ----------
    lines
        Name to points of x and number; a panel draws them in this order.
    shares
        Whether y is from 0 to 1.
    """

    title: str
    lines: Mapping[str, Sequence[tuple[float, Number]]]
    x: str = "edits"
    y: str = ""
    log: bool = True
    shares: bool = True


@dataclass(frozen=True, slots=True)
class Histogram:
    """One panel of score histograms.

    Attributes
    ----------
    scores
        Name to scores.
    threshold
        Drawn as a line; None for none.
    """

    title: str
    scores: Mapping[str, Sequence[float]]
    threshold: float | None = None


def draw_curves(panels: Sequence[Curves], alt: str, names: Sequence[str] = ()) -> Plot:
    """Return panels side by side, each line with its intervals.

    Parameters
    ----------
    names
        Lines that have their colours by this order, whether a panel has them or not.
    """
    names = list(dict.fromkeys((*names, *(name for panel in panels for name in panel.lines))))
    with _drawing():
        figure, axes = _figure(len(panels))
        for panel, axis in zip(panels, axes, strict=True):
            _curves(axis, panel, names)
        _legend(figure, axes)
        return Plot(alt, _svg(figure))


def draw_histograms(panels: Sequence[Histogram], alt: str) -> Plot:
    """Return panels of score histograms with the same bins, each kind as a share of its own answers."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.scores))
    every = [score for panel in panels for scores in panel.scores.values() for score in scores]
    low, high = (min(every), max(every)) if every else (0.0, 1.0)
    edges = [low + (high - low) * step / _BINS for step in range(_BINS + 1)] if high > low else [low - 0.5, low + 0.5]
    with _drawing():
        figure, axes = _figure(len(panels))
        for panel, axis in zip(panels, axes, strict=True):
            for name, scores in panel.scores.items():
                weights = [1 / len(scores)] * len(scores)
                colour = COLOURS[names.index(name) % len(COLOURS)]
                axis.hist(scores, bins=edges, weights=weights, histtype="step", color=colour, label=name)
            if panel.threshold is not None and low <= panel.threshold <= high:
                axis.axvline(panel.threshold, color="#444444", linestyle=":", linewidth=1)
            axis.set(title=panel.title, xlabel="score", ylabel="share of answers")
        _legend(figure, axes)
        return Plot(alt, _svg(figure))


def _drawing() -> AbstractContextManager[None]:
    """Names may hold dollar signs, which are no formulas; the same data always gives the same bytes."""
    return mpl.rc_context({"svg.hashsalt": "horen", "font.size": 9.0, "text.parse_math": False})


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    columns = panels if panels <= _COLUMNS else _COLUMNS - 1
    rows = -(-panels // columns)
    width = _WIDTH if columns < _COLUMNS else 0.75 * _WIDTH
    figure = Figure(figsize=(width * columns, _HEIGHT * rows + 0.4), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]


def _curves(axis: Axes, panel: Curves, names: Sequence[str]) -> None:
    for name, points in panel.lines.items():
        number = names.index(name)
        xs = [x for x, _ in points]
        axis.errorbar(
            xs,
            [point.value for _, point in points],
            # An interval that does not hold its number, as of a quantile, is drawn from the number on.
            yerr=[
                [max(0.0, point.value - point.low) for _, point in points],
                [max(0.0, point.high - point.value) for _, point in points],
            ],
            label=name,
            color=COLOURS[number % len(COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linewidth=1.2,
            elinewidth=0.6,
            capsize=2,
        )
    if panel.log:
        places = sorted({x for points in panel.lines.values() for x, _ in points})
        axis.set_xscale("log")
        axis.set_xticks(places, [f"{x:,.0f}" for x in places])
        axis.minorticks_off()
    if panel.shares:
        axis.set_ylim(-0.03, 1.03)
    axis.grid(alpha=0.25)
    axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)


def _legend(figure: Figure, axes: Iterable[Axes]) -> None:
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(6, len(handles)), frameon=False
        )


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
