"""How far a run is: a bar on a terminal, elsewhere a line from time to time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

LINE_EVERY_S: Final = 60.0
"""Time between two lines where there is no terminal, in seconds."""
_WHOLE: Final = "the whole run"


class Unit(StrEnum):
    """What is counted."""

    QUESTIONS = "questions"
    EDITS = "edits"


@dataclass(slots=True)
class Amount:
    """How much there is of something, how much is done with, and what the time says of the rest.

    Attributes
    ----------
    moved
        What this process has done of it.
    seconds
        How long that took.
    """

    total: int
    done: int = 0
    moved: int = 0
    seconds: float = 0.0

    def move(self, seconds: float) -> None:
        """Count one more."""
        self.done += 1
        self.moved += 1
        self.seconds += seconds

    @property
    def rate(self) -> float | None:
        """How many a second; None while nothing has moved."""
        return self.moved / self.seconds if self.seconds > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at that rate; None where that is not known."""
        left = max(0, self.total - self.done)
        if not left:
            return 0.0
        return left / self.rate if self.rate else None


class AskingBar:
    """Shows one part of a run after another, with its rate and the time that is left, and the whole run beside it.

    The time that is left of the whole run takes what is to come for as slow as what was. It is not known before
    questions and, where there are any, edits have moved.

    Parameters
    ----------
    console
        Where it is drawn. On one that is no terminal it is a plain line every minute, as long as something moves.
    clock
        Seconds from whenever.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._title, self._unit = "", Unit.QUESTIONS
        self._part = Amount(0)
        self._whole: dict[Unit, Amount] = {}
        self._since = self._shown = clock()
        self._bars: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            self._bars = Progress(*columns, _Told(), console=console)
            self._bar = self._bars.add_task("", total=None)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        elif self._part.moved:
            self._line()

    def whole(self, unit: Unit, total: int, done: int) -> None:
        """Show that the whole run has `total` of a unit, of which `done` were done with by earlier starts."""
        if total:
            self._whole[unit] = Amount(total, done)

    def part(self, title: str, unit: Unit) -> None:
        """Show what comes next, and what it counts."""
        self._title, self._unit = title, unit
        self._part = Amount(0)
        self._since = self._clock()

    def begin(self, total: int, done: int) -> None:
        """Show that the part has `total`, of which `done` are done with; those do not count in the rate."""
        self._part = Amount(total, done)
        if self._bars is not None:
            self._bars.reset(self._bar, total=total, completed=done, description=self._title, told="")

    def advance(self) -> None:
        """Show one more."""
        now = self._clock()
        took, self._since = now - self._since, now
        self._part.move(took)
        if self._unit in self._whole:
            self._whole[self._unit].move(took)
        if self._bars is not None:
            self._bars.update(self._bar, advance=1, told=self._told())
        elif now - self._shown >= LINE_EVERY_S:
            self._line()

    def _line(self) -> None:
        self._shown = self._clock()
        part = f"{self._title}: {self._part.done:,}/{self._part.total:,}"
        self._console.print(f"{part}, {self._told()}", markup=False, highlight=False, soft_wrap=True)

    def _told(self) -> str:
        """Return rate and time left of the part, and how far the whole run is."""
        rate = self._part.rate
        told = f"{'-' if rate is None else f'{rate:.1f}'}/s, {_clocked(self._part.left_s)} left"
        if not self._whole:
            return told
        counts = ", ".join(f"{one.done:,}/{one.total:,} {unit}" for unit, one in self._whole.items())
        times = [one.left_s for one in self._whole.values()]
        known = [left for left in times if left is not None]
        return f"{told}; {_WHOLE}: {counts}, {_clocked(sum(known) if len(known) == len(times) else None)} left"


class _Told(ProgressColumn):
    """What the bar says in words."""

    def render(self, task: Task) -> Text:
        """Return it, or nothing before the first step."""
        return Text(str(task.fields.get("told", "")))


def _clocked(seconds: float | None) -> str:
    """Return a time as ``H:MM:SS``; ``-`` when it is not known."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
