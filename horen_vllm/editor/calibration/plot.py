"""The comparison as a picture, with its numbers as JSON beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from horen_vllm.editor.calibration.measures import CurvePoint, Share
from horen_vllm.editor.calibration.results import Comparison, PresetResult

_MOST_FIRES: Final = 0.2
"""Share of false fires up to which recall is drawn: nobody runs with more."""


def write_plot(comparison: Comparison, title: str, folder: Path) -> tuple[Path, Path]:
    """Write ``comparison.png`` and ``comparison.json`` into a folder that exists, and return their paths."""
    picture, numbers = folder / "comparison.png", folder / "comparison.json"
    figure = Figure(figsize=(12.0, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    near, same_subject = figure.subplots(1, 2, sharey=True)
    for result in comparison.results:
        _draw(near, result.label, result.near_curve, result.near, result)
        _draw(same_subject, result.label, result.same_subject_curve, result.same_subject, result)
    _label(near, "questions of the same relation about other subjects that fire")
    _label(same_subject, "other questions about the same subject that fire")
    near.set_ylabel("rephrases on which the right entry fires")
    near.axvline(comparison.false_fire_rate, color="grey", linestyle=":")
    same_subject.legend(loc="lower right", fontsize="small")
    figure.suptitle(f"{title}: {comparison.entries} entries; dots: thresholds as calibrated; bands: 95 % intervals")
    figure.savefig(picture, dpi=120)
    numbers.write_text(json.dumps(comparison.to_dict(), indent=1) + "\n", encoding="utf-8")
    return picture, numbers


def _draw(axes: Axes, label: str, points: Sequence[CurvePoint], fires: Share | None, result: PresetResult) -> None:
    if not points or fires is None:
        return
    rates = [point.rate for point in points]
    (line,) = axes.plot(rates, [point.recall for point in points], label=label)
    axes.fill_between(rates, [it.low for it in points], [it.high for it in points], color=line.get_color(), alpha=0.12)
    axes.plot(fires.share, result.recall.share, marker="o", color=line.get_color(), linestyle="none")


def _label(axes: Axes, xlabel: str) -> None:
    axes.set_xlabel(xlabel)
    axes.set_xlim(-0.005, _MOST_FIRES)
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_locator(MultipleLocator(0.05))
    axes.xaxis.set_major_formatter(lambda share, _at: f"{share:.0%}")
    axes.yaxis.set_major_formatter(lambda share, _at: f"{share:.0%}")
    axes.grid(visible=True, alpha=0.3)
