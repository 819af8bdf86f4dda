"""What the serving benchmark measures: cells of codebook, workload and edited share, with their goals."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from bench.serving_books import RAW, WHITENED, Books
from bench.serving_sides import MODEL

SHORT, LONG, PREFIXED = "32-32", "128-128", "prefix-384-32"
EMPTY: Final = Books(WHITENED, 0, 1)


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison of a server with the plugin to the plain one.

    Attributes
    ----------
    share
        Of the requests, how many are answered by an edit; the others ask a codebook where nothing fires. None: all ask
        the base model, which no codebook concerns.
    goal
        Least share of the plain server's tokens a second; None: measured without one.
    """

    books: Books
    workload: str
    share: float | None
    goal: float | None = None

    @property
    def label(self) -> str:
        """Return how a result names it."""
        asked = "unedited" if self.share is None else f"edited-{self.share:g}"
        return f"{self.books.label} {self.workload} {asked}"

    def models(self, requests: int) -> list[str]:
        """Return whom each of so many requests asks."""
        if self.share is None:
            return [MODEL]
        every = round(1 / self.share) if self.share else 0
        silent, fires = (self.books.names(fires=fires) for fires in (False, True))
        return [
            f"{MODEL}@{(fires if every and place % every == 0 else silent)[place % self.books.tenants]}"
            for place in range(requests)
        ]


def core(*, on_gpu: bool) -> list[Cell]:
    """Return the cells that have goals."""
    return [
        Cell(EMPTY, LONG, 0.0, 0.99),
        Cell(Books(WHITENED, 10_000, 64), LONG, 0.1, 0.97),
        Cell(Books(WHITENED, 50_000, 1), LONG, 0.1, 0.98 if on_gpu else 0.97),
        Cell(Books(RAW, 50_000, 1), LONG, 0.1, 0.95),
        Cell(Books(RAW, 50_000, 1), LONG, None, 0.99),
    ]


def grid(*, on_gpu: bool) -> list[Cell]:
    """Return all cells: the core, then what is left of codebook times workload times share."""
    sizes = product((RAW, WHITENED), (1_000, 10_000, 50_000, 100_000), (1, 64))
    books = [EMPTY, *(Books(*size) for size in sizes)]
    every = [Cell(*cell) for cell in product(books, (LONG, SHORT), (0.0, 0.1, 1.0, None))]
    prefixed = [Cell(it, PREFIXED, share) for it in (EMPTY, Books(WHITENED, 50_000, 1)) for share in (0.0, 1.0)]
    cells = {cell.label: cell for cell in (*every, *prefixed)} | {cell.label: cell for cell in core(on_gpu=on_gpu)}
    return [cell for cell in cells.values() if cell.books.entries or not cell.share]


def by_books(cells: Sequence[Cell]) -> dict[Books, list[Cell]]:
    """Return the cells by the codebooks that a server must have for them."""
    return {books: [cell for cell in cells if cell.books == books] for books in dict.fromkeys(it.books for it in cells)}
