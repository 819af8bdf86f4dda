"""What the serving benchmark measures: cells of codebook, workload and edited share, with their goals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from typing import Final

from bench.serving_books import RAW, WHITENED, Books
from bench.serving_sides import LORA_MODEL, MODEL
from bench.serving_workloads import CHAT

SHORT, LONG, PREFIXED = "32-32", "128-128", "prefix-384-32"
EMPTY: Final = Books(WHITENED, 0, 1)
LORA_RANK: Final = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison of a server to the plain one.

    Attributes
    ----------
    books
        The codebooks that are asked; None: a server with a LoRA adapter instead of the plugin, which all requests ask.
    share
        Of the requests, how many are answered by an edit; the others ask a codebook where nothing fires. None: all ask
        the base model, which no codebook concerns.
    goal
        Least share of the plain server's tokens a second; None: measured without one.
    ttft_goal_ms
        Most milliseconds that the median time to the first token may grow by; None: measured without a goal.
    """

    books: Books | None
    workload: str
    share: float | None = None
    goal: float | None = None
    ttft_goal_ms: float | None = None

    @property
    def label(self) -> str:
        """Return how a result names it."""
        if self.books is None:
            return f"LoRA-rank-{LORA_RANK} {self.workload}"
        asked = "unedited" if self.share is None else f"edited-{self.share:g}"
        return f"{self.books.label} {self.workload} {asked}"

    @property
    def routed(self) -> bool:
        """Whether its requests ask a codebook."""
        return self.books is not None and self.share is not None

    def models(self, first: int, requests: int) -> list[str]:
        """Return whom the requests from the one numbered `first` on ask; all codebooks are asked in turn."""
        if self.books is None:
            return [LORA_MODEL] * requests
        if not self.routed:
            return [MODEL] * requests
        fires, silent = self.books.names(fires=True), self.books.names(fires=False)
        names = []
        for number in range(first, first + requests):
            before = self._edited_before(number)
            edited = self._edited_before(number + 1) > before
            book = fires[before % len(fires)] if edited else silent[(number - before) % len(silent)]
            names.append(f"{MODEL}@{book}")
        return names

    def edited(self, first: int, requests: int) -> int:
        """Return how many of these requests are answered by an edit."""
        return self._edited_before(first + requests) - self._edited_before(first)

    def _edited_before(self, number: int) -> int:
        # In whole numbers, so that of any ten requests in a row a tenth is exactly one.
        share = Fraction(self.share or 0.0).limit_denominator(1000)
        return number * share.numerator // share.denominator


_LARGE: Final = Books(WHITENED, 50_000, 1)
_GOALS: Final[dict[tuple[Books | None, float | None, str], float]] = {
    **{(EMPTY, 0.0, workload): 0.99 for workload in (LONG, SHORT)},
    **{(Books(WHITENED, 10_000, 64), 0.1, workload): 0.97 for workload in (LONG, SHORT)},
    **{(_LARGE, 0.1, workload): 0.97 for workload in (LONG, SHORT)},
    (Books(RAW, 50_000, 1), 0.1, LONG): 0.95,
    **{(Books(RAW, 50_000, 1), None, workload): 0.99 for workload in (LONG, SHORT)},
}
"""Least share of the plain server's tokens a second, by codebooks, edited share and workload."""


@dataclass(frozen=True, slots=True)
class Group:
    """Cells of the same codebooks and workload, which share the plain server's rounds."""

    cells: tuple[Cell, ...]

    @property
    def workload(self) -> str:
        """Return the workload's name."""
        return self.cells[0].workload

    @property
    def label(self) -> str:
        """Return how it is spoken of."""
        return ", ".join(cell.label for cell in self.cells)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What one server beside the plain one is started for.

    Attributes
    ----------
    books
        The codebooks that it has; none: it has a LoRA adapter.
    """

    books: tuple[Books, ...]
    groups: tuple[Group, ...]

    @property
    def label(self) -> str:
        """Return how its log is named."""
        return "+".join(books.label for books in self.books) or "lora"


def core(*, on_gpu: bool) -> list[Cell]:
    """Return the cells that have goals, on a GPU in the order of what is least known.

    On a CPU the goals that name no workload are measured with the short one: it takes a quarter of the time, and there
    the routing of prompts weighs more.
    """
    workload = LONG if on_gpu else SHORT
    cells = [
        with_goal(Cell(EMPTY, workload, 0.0), on_gpu=on_gpu),
        with_goal(Cell(Books(WHITENED, 10_000, 64), workload, 0.1), on_gpu=on_gpu),
        with_goal(Cell(_LARGE, workload, 0.1), on_gpu=on_gpu),
        with_goal(Cell(Books(RAW, 50_000, 1), LONG, 0.1), on_gpu=on_gpu),
        with_goal(Cell(Books(RAW, 50_000, 1), workload, None), on_gpu=on_gpu),
    ]
    return [cells[place] for place in (2, 0, 3, 4, 1)] if on_gpu else cells


def with_goal(cell: Cell, *, on_gpu: bool) -> Cell:
    """Return a cell with the goals that the project has for it, if any."""
    goal = _GOALS.get((cell.books, cell.share, cell.workload))
    if goal is not None and cell.books == _LARGE and on_gpu:
        return replace(cell, goal=0.98, ttft_goal_ms=1.0)
    return replace(cell, goal=goal)


def grid(*, on_gpu: bool) -> list[Cell]:
    """Return all cells: the core, then what is left of codebook times workload times share."""
    sizes = product((RAW, WHITENED), (1_000, 10_000, 50_000, 100_000), (1, 64))
    books = [EMPTY, *(Books(*size) for size in sizes)]
    every = [Cell(*cell) for cell in product(books, (LONG, SHORT), (0.0, 0.1, 1.0, None))]
    prefixed = [Cell(*it) for it in product((EMPTY, _LARGE), (PREFIXED, CHAT), (0.0, 1.0))]
    cells: dict[str, Cell] = {}
    for cell in (*core(on_gpu=on_gpu), *every, *prefixed):
        if not cell.share or (cell.books and cell.books.entries):
            cells.setdefault(cell.label, with_goal(cell, on_gpu=on_gpu))
    return list(cells.values())


def fleets(cells: Sequence[Cell], *, together: bool) -> list[Fleet]:
    """Return the servers that the cells need: one for each set of codebooks, or one `together` for all of them."""
    groups = [Group(tuple(found)) for found in _grouped(cells).values()]
    every = tuple(dict.fromkeys(cell.books for cell in cells if cell.books is not None))
    books_of = {books: every if together else (books,) for books in every}
    by_books: dict[tuple[Books, ...], list[Group]] = {}
    for group in groups:
        asked = group.cells[0].books
        by_books.setdefault(() if asked is None else books_of[asked], []).append(group)
    return [Fleet(books, tuple(found)) for books, found in by_books.items()]


def _grouped(cells: Sequence[Cell]) -> dict[tuple[Books | None, str], list[Cell]]:
    found: dict[tuple[Books | None, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.books, cell.workload), []).append(cell)
    return found


def cells_of(fleet: Fleet) -> Iterator[Cell]:
    """Yield all cells of a server."""
    for group in fleet.groups:
        yield from group.cells
