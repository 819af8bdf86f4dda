"""Books of keys for the tests of routing, and what the definition in fp64 says of a query."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from horen_vllm.core.match import NO_ENTRY, KeyTable, Routed, entry_scores
from horen_vllm.core.presets import MethodParameters
from horen_vllm.kernels.groups import RouteGroup, RouteRule

MARGIN = 1e-6
FIELDS = ("entry", "best", "score", "runner_up", "runner_up_score")


@dataclass
class Book:
    """A revision on a buffer whose other rows are no numbers."""

    keys: torch.Tensor
    rows: torch.Tensor
    owners: torch.Tensor
    sequences: torch.Tensor
    gamma: float = 0.0
    steps: int = 0
    epsilon: float = 1e-5
    threshold: float = 0.3
    beta: float = 20.0
    sure_above: float | None = None

    def run(self, form: object, queries: torch.Tensor, **options: bool) -> Routed:
        assert callable(form)
        routed: Routed = form(
            queries,
            self.keys,
            self.rows,
            self.owners,
            self.sequences,
            beta=self.beta,
            gamma=self.gamma,
            steps=self.steps,
            epsilon=self.epsilon,
            threshold=self.threshold,
            sure_above=self.sure_above,
            **options,
        )
        return routed

    def group(self, queries: int) -> RouteGroup:
        """Return the book as a group of a batch of several books."""
        rule = RouteRule(self.beta, self.gamma, self.steps, self.epsilon, self.threshold, sure_above=self.sure_above)
        return RouteGroup(queries, self.rows, self.owners, self.sequences, rule)

    def scores(self, queries: torch.Tensor) -> torch.Tensor:
        """Return the definition's score of each entry [B, E] in fp64."""
        method = MethodParameters(
            preset="cosine", threshold=0.0, beta=self.beta, gamma=self.gamma, steps=self.steps, epsilon=self.epsilon
        )
        table = KeyTable(self.keys[self.rows].double(), self.owners, self.sequences)
        return entry_scores(queries.double(), table, method)


def make_book(seed: int, keys: int, width: int, entries: int, *, twins: int = 0, near: int = 0) -> Book:
    """Return a book of random keys; `twins` keys are repeated exactly, `near` ones almost."""
    generator = torch.Generator().manual_seed(seed)
    made = F.normalize(torch.randn(keys, width, generator=generator), dim=-1)
    for index in range(min(twins, keys // 2)):
        made[-1 - index] = made[index]
    for index in range(min(near, keys // 2)):
        made[-1 - index] = F.normalize(made[index] + 1e-7 * torch.randn(width, generator=generator), dim=0)
    buffer = torch.full((2 * keys + 3, width), torch.nan)
    rows = torch.randperm(2 * keys + 3, generator=generator)[:keys]
    buffer[rows] = made
    owners = torch.cat([torch.arange(entries), torch.randint(entries, (keys,), generator=generator)])[:keys]
    owners = owners[torch.randperm(keys, generator=generator)]
    return Book(buffer, rows, owners, torch.randperm(100 + entries, generator=generator)[:entries])


def queries_of(book: Book, count: int, seed: int) -> torch.Tensor:
    """Return unit queries, most of them near a key."""
    generator = torch.Generator().manual_seed(seed)
    near = book.keys[book.rows[torch.randint(len(book.rows), (count,), generator=generator)]]
    noise = torch.randn(near.shape, generator=generator)
    return F.normalize(near + 0.2 * noise * torch.rand(count, 1, generator=generator), dim=-1)


def crowd(seed: int, keys: int, width: int, share: float) -> Book:
    """Return a book in one run of rows, whose keys have a mean cosine of `share` with each other; an entry each."""
    generator = torch.Generator().manual_seed(seed)
    common = F.normalize(torch.randn(width, generator=generator), dim=0)
    own = F.normalize(torch.randn(keys, width, generator=generator), dim=-1)
    buffer = torch.full((keys + 6, width), torch.nan)
    buffer[3:-3] = F.normalize(share**0.5 * common + (1.0 - share) ** 0.5 * own, dim=-1)
    order = torch.randperm(keys, generator=generator)
    return Book(buffer, torch.arange(3, keys + 3), torch.arange(keys), order)


def check(book: Book, queries: torch.Tensor, routed: Routed) -> None:
    """Assert that the decisions are the definition's outside the tie margin."""
    for row, scores in enumerate(book.scores(queries)):
        best, second = int(routed.best[row]), int(routed.runner_up[row])
        assert abs(float(routed.score[row]) - float(scores.max())) < MARGIN
        assert float(scores[best]) > float(scores.max()) - MARGIN
        if abs(float(scores.max()) - book.threshold) > MARGIN:
            assert int(routed.entry[row]) == (best if float(scores.max()) > book.threshold else NO_ENTRY)
        others = scores.clone()
        others[best] = -torch.inf
        if bool(others.isneginf().all()):
            assert second == NO_ENTRY
            assert float(routed.runner_up_score[row]) == -torch.inf
        else:
            assert second != best
            assert abs(float(routed.runner_up_score[row]) - float(others.max())) < MARGIN
            assert float(scores[second]) > float(others.max()) - MARGIN


def check_settled(book: Book, queries: torch.Tensor, form: object) -> list[bool]:
    """Assert that a book's entries are those of refined scores, and return which rows have scores of first queries.

    Parameters
    ----------
    book
        With `sure_above`.
    """
    found, exact = book.run(form, queries), replace(book, sure_above=None).run(form, queries)
    assert torch.equal(found.entry, exact.entry)
    check(replace(book, sure_above=None), queries, exact)
    settled = list[bool]()
    for row in range(len(queries)):
        own, refined = (Routed(*(getattr(it, name)[row : row + 1] for name in FIELDS)) for it in (found, exact))
        settled.append(any(not torch.equal(getattr(own, name), getattr(refined, name)) for name in FIELDS))
        if settled[-1]:
            check(replace(book, steps=0), queries[row : row + 1], own)
            fires = int(own.entry) != NO_ENTRY
            assert book.sure_above is not None
            assert not fires or float(refined.score) > book.sure_above
    return settled


def assert_same(one: Routed, other: Routed) -> None:
    """Assert that two batches are equal to the bit."""
    for name in FIELDS:
        first, second = getattr(one, name), getattr(other, name)
        assert torch.equal(first, second), name


def shelve(books: Sequence[Book], seed: int) -> list[Book]:
    """Return the books on one buffer, their rows in any order between each other's and between rows of no number."""
    generator = torch.Generator().manual_seed(seed)
    counts = [len(book.rows) for book in books]
    buffer = torch.full((sum(counts) + 5, books[0].keys.shape[1]), torch.nan)
    places = torch.split(torch.randperm(len(buffer), generator=generator)[: sum(counts)], counts)
    for book, rows in zip(books, places, strict=True):
        buffer[rows] = book.keys[book.rows]
    return [replace(book, keys=buffer, rows=rows) for book, rows in zip(books, places, strict=True)]


def asked(books: Sequence[Book], counts: Sequence[int], seed: int) -> list[torch.Tensor]:
    """Return queries of each book, as many as `counts` says; of a book without keys they have any direction."""
    generator, width = torch.Generator().manual_seed(seed), books[0].keys.shape[1]
    return [
        queries_of(book, count, seed + number)
        if len(book.rows)
        else F.normalize(torch.randn(count, width, generator=generator), dim=-1)
        for number, (book, count) in enumerate(zip(books, counts, strict=True))
    ]


def assert_as_alone(mixed: object, alone: object, books: Sequence[Book], queries: Sequence[torch.Tensor]) -> None:
    """Assert that each book's rows of a mixed batch have the bits of its own call."""
    assert callable(mixed)
    groups = [book.group(len(rows)) for book, rows in zip(books, queries, strict=True)]
    together = mixed(torch.cat(list(queries)), books[0].keys, groups)
    first = 0
    for book, rows in zip(books, queries, strict=True):
        own = slice(first, first + len(rows))
        assert_same(Routed(*(getattr(together, name)[own] for name in FIELDS)), book.run(alone, rows))
        first = own.stop
    assert len(together.entry) == first
