"""The report's plots, as SVG."""

import base64
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from horen_vllm.evals.reporting.summary_parts import Number

_WIDTH, _HEIGHT, _COLUMNS = 3.9, 3.0, 4
_BINS: Final = 40
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Told apart by most people, colour-blind or not; a series also has a marker of its own."""
_MARKERS: Final = "os^DvPX*"
_BOUNDS: Final = (":", "--")
"""How the first and the second bound of a histogram are drawn."""
_APART: Final = 0.11
"""Share of an axis that must lie between two labels."""
_SYMBOL: Final = 0.55
_LETTER: Final = 0.075
"""Inches that a legend needs for a symbol with its margins, and for a letter of its text."""
_SHARES: Final = (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Labels of an axis of shares that grows with their root."""


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
    hollow
        Name to the x of points that are drawn hollow, and what that means; none of them by default.
    """

    title: str
    lines: Mapping[str, Sequence[tuple[float, Number]]]
    x: str = "edits"
    y: str = ""
    log: bool = True
    shares: bool = True
    hollow: Mapping[str, Collection[float]] = field(default_factory=dict)
    hollow_means: str = ""


@dataclass(frozen=True, slots=True)
class Histogram:
    """One panel of score histograms.

    Attributes
    ----------
    scores
        Name to scores.
    bounds
        Name to a score that is drawn as a line; at most two.
    x
        What the scores are. Only panels with the same have the same bins.
    """

    title: str
    scores: Mapping[str, Sequence[float]]
    bounds: Mapping[str, float] = field(default_factory=dict)
    x: str = "score"


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
        meanings = dict.fromkeys(panel.hollow_means for panel in panels if any(panel.hollow.values()))
        grey = _dots(0) | {"color": "#444444", "markerfacecolor": "white"}
        _legend(figure, axes, {text: Line2D([], [], **grey) for text in meanings})
        return Plot(alt, _svg(figure))


def draw_histograms(panels: Sequence[Histogram], alt: str) -> Plot:
    """Return panels of score histograms, each kind as a share of its own answers.

    Shares are drawn by their root: nearly all edits' own prompts score the same, and would dwarf what the others do.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.scores))
    bounds = list(dict.fromkeys(name for panel in panels for name in panel.bounds))
    edges = {x: _edges([panel for panel in panels if panel.x == x]) for x in {panel.x for panel in panels}}
    with _drawing():
        figure, axes = _figure(len(panels))
        for panel, axis in zip(panels, axes, strict=True):
            for name, scores in panel.scores.items():
                weights = [1 / len(scores)] * len(scores)
                colour = COLOURS[names.index(name) % len(COLOURS)]
                axis.hist(scores, bins=edges[panel.x], weights=weights, histtype="step", color=colour, label=name)
            for name, bound in panel.bounds.items():
                style = _BOUNDS[bounds.index(name) % len(_BOUNDS)]
                axis.axvline(bound, color="#444444", linestyle=style, linewidth=1, label=name)
            axis.set_yscale("function", functions=(_root, np.square))
            axis.set_yticks(_SHARES, [f"{share:g}" for share in _SHARES])
            axis.set(title=panel.title, xlabel=panel.x, ylabel="share of answers", ylim=(0, 1.05))
        _legend(figure, axes)
        return Plot(alt, _svg(figure))


def _edges(panels: Sequence[Histogram]) -> list[float]:
    """Return the bins of panels that have them together: all scores and bounds lie within."""
    every = [score for panel in panels for scores in panel.scores.values() for score in scores]
    every += [bound for panel in panels for bound in panel.bounds.values()]
    low, high = (min(every), max(every)) if every else (0.0, 1.0)
    return [low + (high - low) * step / _BINS for step in range(_BINS + 1)] if high > low else [low - 0.5, low + 0.5]


def _root(shares: ArrayLike) -> NDArray[np.float64]:
    above: NDArray[np.float64] = np.maximum(np.asarray(shares, dtype=np.float64), 0.0)
    return above**0.5


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
        hollow = [(x, point.value) for x, point in points if x in panel.hollow.get(name, ())]
        if hollow:
            axis.plot(*zip(*hollow, strict=True), label="_", markerfacecolor="white", zorder=3, **_dots(number))
    if panel.log:
        places = sorted({x for points in panel.lines.values() for x, _ in points})
        axis.set_xscale("log")
        axis.set_xticks(places, _labels(places))
        axis.minorticks_off()
    if panel.shares:
        axis.set_ylim(-0.03, 1.03)
    axis.grid(alpha=0.25)
    axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)


def _labels(places: Sequence[float]) -> list[str]:
    """Return the labels of ascending places of a logarithmic axis; what would touch its right neighbour is empty."""
    labels: list[str] = []
    width, last = np.log(places[-1] / places[0]) if places else 0.0, np.inf
    for x in reversed(places):
        fits = not labels or np.log(last / x) >= _APART * width
        labels.append(_short(x) if fits else "")
        last = x if fits else last
    return labels[::-1]


def _short(count: float) -> str:
    return f"{count / 1000:g}K" if count >= 1000 and count % 100 == 0 else f"{count:,.0f}"


def _dots(number: int) -> dict[str, Any]:
    """Return the style of a line's points alone."""
    colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 4, "linestyle": "none"}


def _legend(figure: Figure, axes: Iterable[Axes], more: Mapping[str, Artist] | None = None) -> None:
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    # Lines that are no series come last.
    ordered = dict(sorted(handles.items(), key=lambda pair: isinstance(pair[1], Line2D))) | dict(more or {})
    if ordered:
        columns = _columns(list(ordered), float(figure.get_figwidth()))
        figure.legend(list(ordered.values()), list(ordered), loc="outside lower center", ncols=columns, frameon=False)


def _columns(labels: Sequence[str], width: float) -> int:
    """Return how many columns of a legend fit into so many inches."""

    def needed(columns: int) -> float:
        parts = np.array_split([len(label) for label in labels], columns)
        return sum(_SYMBOL + _LETTER * float(part.max()) for part in parts)

    return next((columns for columns in range(min(6, len(labels)), 1, -1) if needed(columns) <= width), 1)


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
