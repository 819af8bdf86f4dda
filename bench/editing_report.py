"""The editing benchmark's numbers as tables on the console."""

from typing import Any

from rich.console import Console
from rich.table import Table


def show(name: str, result: dict[str, Any], console: Console) -> None:
    """Print what one section measured."""
    title = f"{name}: {result['model']}, {result['dtype']}, {result['threads']} thread(s)"
    if "sides" in result:
        console.print(_pairs(title, result))
        console.print(_ratios(result))
        console.print(_phases(result))
    elif "by_entries" in result:
        console.print(_scaling(title, result))
    else:
        console.print(_memory(title, result))


def _pairs(title: str, result: dict[str, Any]) -> Table:
    columns = ("side", "s/edit", "edits/s", "success", "with end", "steps", "contexts")
    table = Table(*columns, title=f"{title}, {result['rounds']} rounds of {result['edits_a_round']} edits")
    for name, side in result["sides"].items():
        table.add_row(
            name,
            f"{side['seconds_an_edit']:.4f}",
            f"{side['edits_a_second']:.2f}",
            f"{side['success']:.3f}",
            f"{side['success_with_end']:.3f}",
            f"{side['steps']:g}",
            f"{side['contexts']:.1f}",
        )
    return table


def _ratios(result: dict[str, Any]) -> Table:
    names = ("times_faster", "times_faster_values_only", "times_faster_a_success", "times_faster_in_cpu_time")
    table = Table("x plain", "whole path", "values only", "a success", "CPU time")
    for side, numbers in result["sides"].items():
        if "times_faster" in numbers:
            table.add_row(side, *(_times(numbers[name]) for name in names))
    return table


def _phases(result: dict[str, Any]) -> Table:
    sides = {name: side for name, side in result["sides"].items() if "seconds_an_edit_by_phase" in side}
    names = sorted({phase for side in sides.values() for phase in side["seconds_an_edit_by_phase"]})
    table = Table("ms/edit", *names)
    for name, side in sides.items():
        phases = side["seconds_an_edit_by_phase"]
        table.add_row(name, *(f"{1e3 * phases.get(phase, 0.0):.2f}" for phase in names))
    return table


def _scaling(title: str, result: dict[str, Any]) -> Table:
    table = Table("entries", "ms/edit", "judging", "x when empty", "CPU time", title=title)
    for row in result["by_entries"]:
        spent = [f"{1e3 * row[name]:.2f}" for name in ("seconds_an_edit", "judging_seconds_an_edit")]
        times = [_times(row[name]) for name in ("times_the_cost_when_empty", "times_in_cpu_time")]
        table.add_row(f"{row['entries']:,}", *spent, *times)
    return table


def _memory(title: str, result: dict[str, Any]) -> Table:
    table = Table("", "MiB", title=f"{title}, limit {result['memory_limit_mib']} MiB")
    for row in result["one_batch"]:
        table.add_row(f"peak of a batch of {row['edits_a_batch']}", f"{row['peak_mib']:.0f}")
    in_a_row = result["in_a_row"]
    for name, number in in_a_row.items():
        if name.endswith("_mib"):
            label = name.removesuffix("_mib").replace("_", " ")
            table.add_row(f"{in_a_row['edits']} edits in a row: {label}", f"{number:.1f}")
    return table


def _times(spread: dict[str, float] | None) -> str:
    if spread is None:
        return ""
    return f"{spread['median']:.2f} ({spread['min']:.2f}-{spread['max']:.2f})"
