"""What the report is made of: sections of tables, plots and lists."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from horen_vllm.evals.reporting import words
from horen_vllm.evals.reporting.plots import Plot
from horen_vllm.evals.reporting.summary_parts import Number


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: a text, and a smaller one beside it."""

    text: str
    beside: str = ""

    @classmethod
    def of(cls, number: Number | None) -> Self:
        """Return the cell of a number with its interval."""
        return cls(words.share(number), words.interval(number))


Row: TypeAlias = Sequence[Cell | str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `rows` are as long as `header`."""

    title: str
    header: Sequence[str]
    rows: Sequence[Row]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report; one with nothing in it is left out.

    Attributes
    ----------
    folded
        Whether the tables are shown on a click.
    """

    name: str
    title: str
    note: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    folded: bool = False

    def __bool__(self) -> bool:
        return any(table.rows for table in self.tables) or bool(self.plots)
