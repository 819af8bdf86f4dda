"""Compares new results with the committed ones: ratios only, since times of two machines say nothing.

A ratio got worse when its whole interval lies below the committed median by more than the tolerance. Ends with 1 then,
and when a committed ratio was not measured (GPU results aside, where there are no new ones).

    make bench RESULTS=build/new && make bench-check RESULTS=build/new
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from bench.ratios import FILES, Ratio, ratios_of

TOLERANCE: Final = 0.02


def worse(new: Ratio, old: Ratio, tolerance: float) -> bool:
    """Return whether `new` lies below `old` for certain, by more than a share `tolerance` of it."""
    return new["high"] < old["median"] * (1.0 - tolerance)


@dataclass(frozen=True, slots=True)
class Line:
    """One ratio of the committed results.

    Attributes
    ----------
    new
        What it is now; None: it was not measured.
    """

    label: str
    old: Ratio
    new: Ratio | None


def compared(new: Path, old: Path) -> list[Line]:
    """Return every ratio of a committed file, with what it is in a new one; of no file there is nothing."""
    after = ratios_of(new) if new.exists() else {}
    return [Line(label, ratio, after.get(label)) for label, ratio in ratios_of(old).items()]


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with new results.")],
    against: Annotated[Path, typer.Option(help="Folder with the committed ones.")] = Path("bench/results"),
    tolerance: Annotated[float, typer.Option(help="Share by which a ratio may fall.")] = TOLERANCE,
) -> None:
    """Print all committed ratios, and end with 1 when one got worse or was not measured."""
    if folder.resolve() == against.resolve():
        raise typer.BadParameter(f"{folder} would be compared with itself: name the folder of other results.")
    table = Table("ratio", "committed", "new", "")
    failed = False
    for line in _lines(folder, against):
        verdict = "missing" if line.new is None else "worse" if worse(line.new, line.old, tolerance) else ""
        failed |= bool(verdict)
        spread = f"{line.new['median']:.3f} [{line.new['low']:.3f}, {line.new['high']:.3f}]" if line.new else ""
        table.add_row(line.label, f"{line.old['median']:.3f}", spread, verdict)
    Console().print(table)
    if not table.row_count:
        raise typer.BadParameter(f"{against} has no results to compare with.")
    raise typer.Exit(int(failed))


def _lines(folder: Path, against: Path) -> Iterator[Line]:
    for name in FILES:
        new, old = folder / f"{name}.json", against / f"{name}.json"
        # A machine without a GPU cannot have measured these.
        if old.exists() and (new.exists() or not name.endswith("_gpu")):
            yield from compared(new, old)


if __name__ == "__main__":
    typer.run(main)
