"""The comparison of presets as a table, for a person."""

from typing import Final

from rich.console import Console
from rich.table import Table

from horen_vllm.editor.calibration.measures import Share
from horen_vllm.editor.calibration.results import Comparison

_NOTES: Final = (
    "recall: rephrases on which the right entry fires; at 1 % and at 5 %: with thresholds moved to so many near false",
    "fires, with subjects given to so many false fires about the same subject.",
    "near: same question, other subject; unrelated: another question; same subject: another question about it.",
    "In brackets: 95 % intervals. c follows the number of keys where it is not published for the model.",
)
_WIDTH: Final = 140
"""Of a pipe, which has no width of its own."""


def print_comparison(comparison: Comparison, title: str) -> None:
    """Print one row for each preset, with or without subjects, and what the columns mean."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    table = Table(title=f"{title}: {comparison.entries} entries", title_justify="left", box=None, pad_edge=False)
    for column in ("preset", "c", "recall", "near", "unrelated", "same subject", "recall at 1 %", "at 5 %"):
        table.add_column(column, no_wrap=column == "preset")
    for result in comparison.results:
        shares = (result.recall, result.near, result.unrelated, result.same_subject)
        moved = (result.recall_at_1, result.recall_at_5)
        name = f"{result.label} *" if result.preset == comparison.recommended and not result.subjects else result.label
        threshold = "-" if result.threshold is None else f"{result.threshold:.3f}"
        table.add_row(name, threshold, *map(_cell, (*shares, *moved)))
    console.print(table)
    for note in (*_NOTES, f"* recommended at {comparison.false_fire_rate:.2%} false fires."):
        console.print(note, style="dim", highlight=False, soft_wrap=True)


def _cell(share: Share | None) -> str:
    if share is None:
        return "-"
    return f"{share.share:.1%} ({100 * share.low:.0f}-{100 * share.high:.0f})"
