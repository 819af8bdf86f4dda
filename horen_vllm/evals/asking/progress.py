"""How far the asking is, on a terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class AskingBar:
    """A progress bar with the rate of answers and the time that is left, for one `answer_all` after another.

    Parameters
    ----------
    console
        Where it is drawn; one that is no terminal shows the last state only.
    title
        What is asked: set it before each `answer_all`.
    """

    def __init__(self, console: Console, title: str = "") -> None:
        self.title = title
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(title, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, total: int, done: int) -> None:
        """Show `total` questions of which `done` have their record; those do not count in the rate."""
        self._progress.reset(self._task, total=total, completed=done, description=self.title)

    def advance(self) -> None:
        """Show one more."""
        self._progress.advance(self._task)


class _Rate(ProgressColumn):
    """Answers a second, of late."""

    def render(self, task: Task) -> Text:
        """Return the rate, or nothing before the first answers."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")
