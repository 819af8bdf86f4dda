"""Compares new results with the committed ones: ratios only, since times of two machines say nothing.

A ratio got worse when its whole interval lies below the committed median by more than the tolerance. Ends with 1 then.

    python -m bench.regression new-results
"""

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


def compared(new: Path, old: Path) -> list[tuple[str, Ratio, Ratio]]:
    """Return label, new and old ratio of everything that both files have."""
    before, after = ratios_of(old), ratios_of(new)
    return [(label, ratio, before[label]) for label, ratio in after.items() if label in before]


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with new results.")],
    against: Annotated[Path, typer.Option(help="Folder with the committed ones.")] = Path("bench/results"),
    tolerance: Annotated[float, typer.Option(help="Share by which a ratio may fall.")] = TOLERANCE,
) -> None:
    """Print what both have, and end with 1 when a ratio got worse."""
    table = Table("ratio", "committed", "new", "")
    failed = False
    for name in FILES:
        new, old = folder / f"{name}.json", against / f"{name}.json"
        if not (new.exists() and old.exists()):
            continue
        for label, now, then in compared(new, old):
            bad = worse(now, then, tolerance)
            failed |= bad
            spread = f"{now['median']:.3f} [{now['low']:.3f}, {now['high']:.3f}]"
            table.add_row(label, f"{then['median']:.3f}", spread, "worse" if bad else "")
    Console().print(table)
    if not table.row_count:
        raise typer.BadParameter(f"{folder} has nothing that {against} has, too.")
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    typer.run(main)
