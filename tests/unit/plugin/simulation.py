"""A linear layer with an edit site, fed as a model runner would, and what every output must be.

The reference looks at one request at a time and knows neither slots nor batches nor pages.
"""

import math
import random
from dataclasses import dataclass, field
from typing import Any

import torch

from horen_vllm.artifact import EntryArtifact
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.entries import (
    D_IN,
    D_OUT,
    Numbered,
    make_codebooks,
    parameters,
    publish,
    unowned_rows_are_poison,
    update_of,
)

SLOTS = 4
MAX_TOKENS = 64
ROWS = 400


@dataclass
class Book:
    """One revision as the reference sees it."""

    revision: int
    threshold: float
    entries: list[Numbered]

    def fired(self, request: "Request") -> EntryArtifact | None:
        """Return the entry that fires for a request."""
        return self.match(request.inputs[slice(*request.window)])[0]

    def match(self, window: torch.Tensor) -> tuple[EntryArtifact | None, float]:
        """Return the entry that fires for a window of site inputs, and the best score."""
        query = window.double().mean(dim=0)
        query = query / query.norm()
        best, best_score = None, -math.inf
        for _, entry in sorted(self.entries, key=lambda pair: pair[0]):
            score = max(float(key.double() @ query) for key in entry.keys)
            if score >= best_score:
                best, best_score = entry, score
        return (best if best_score > self.threshold else None), best_score


@dataclass
class Request:
    """A request with its site inputs at every position, prompt and answer."""

    name: str
    codebook: str | None
    prompt: int
    inputs: torch.Tensor
    ratio: float = 0.6
    span: tuple[int, int] | None = None
    prompt_ids: list[int] | None = None
    words: tuple[str, ...] | None = None
    done: int = 0
    book: Book | None = None

    @property
    def tag(self) -> RequestTag | None:
        """The tag that the API server would have written."""
        return RequestTag(self.codebook, self.ratio, self.span) if self.codebook else None

    @property
    def window(self) -> tuple[int, int]:
        """The last `ceil(ratio * n)` positions of the n that the query span has."""
        start, stop = self.span or (0, self.prompt)
        return stop - math.ceil(self.ratio * (stop - start)), stop

    def fired(self) -> EntryArtifact | None:
        """Return the entry that this request's window matches in the revision it was admitted under."""
        return self.book.fired(self) if self.book is not None else None

    def expected(self, position: int, clean: torch.Tensor) -> torch.Tensor:
        """Return the layer's output at a position."""
        entry, offset = self.fired(), position - (self.prompt - 1)
        if entry is None or not 0 <= offset < entry.manifest.span:
            return clean
        if entry.manifest.rank:
            down, up = entry.values.chunk(2)
            return clean + (clean * down).sum(dim=1) @ up
        return clean + entry.values.repeat_interleave(entry.manifest.chunk, dim=0)[offset]


@dataclass
class Simulation:
    """Runs steps through an `EditSite` and compares every output row with the reference."""

    seed: int
    books: dict[str, Book] = field(default_factory=dict)
    compared: int = 0
    edited: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        self.random = random.Random(self.seed)
        self.positions = torch.zeros(MAX_TOKENS, dtype=torch.int64)
        self.codebooks = make_codebooks(ROWS, ROWS)
        self.site = EditSite(self.codebooks, num_slots=SLOTS, positions=self.positions)
        self.reports: dict[str, dict[str, Any]] = {}

    def inputs(self, count: int) -> torch.Tensor:
        """Return random site inputs."""
        return torch.randn(count, D_IN, generator=self.generator)

    def publish(self, name: str, revision: int, entries: list[Numbered], threshold: float = 0.97) -> None:
        """Publish a whole revision to the site and to the reference."""
        publish(self.codebooks, update_of(name, revision, entries, rule=parameters(threshold)))
        self.books[name] = Book(revision, threshold, entries)

    def step(self, batch: list[tuple[Request, int]]) -> None:
        """Compute `count` tokens of each request in one flattened batch, padded by three rows."""
        assert unowned_rows_are_poison(self.codebooks.store)
        rows, first = [], 0
        for request, count in batch:
            if request.tag is not None:
                rows.append(
                    BatchRow(request.name, request.tag, first, count, request.done, request.prompt, request.prompt_ids)
                )
            self.positions[first : first + count] = torch.arange(request.done, request.done + count)
            if request.book is None and request.codebook is not None:
                request.book = self.books.get(request.codebook)
            first += count
        # Whatever lies in the padding, nothing may be written there.
        self.positions[first:] = self.random.randrange(9)
        hidden = torch.cat([request.inputs[request.done : request.done + count] for request, count in batch])
        inputs = torch.cat([hidden, self.inputs(3)])
        clean = torch.randn(first + 3, D_OUT, generator=self.generator)
        clean[:, 0] = -0.0
        outputs = clean.clone()
        self.site.begin_step(rows)
        self.site.run(inputs, outputs)
        self._compare(batch, clean, outputs)
        self.reports |= self.site.take_decisions().reports()
        for request, count in batch:
            request.done += count

    def _compare(self, batch: list[tuple[Request, int]], clean: torch.Tensor, outputs: torch.Tensor) -> None:
        row = 0
        for request, count in batch:
            for position in range(request.done, request.done + count):
                expected = request.expected(position, clean[row])
                assert is_same(request, outputs[row], expected), (request.name, position)
                self.compared += 1
                self.edited += not torch.equal(expected, clean[row])
                row += 1
        assert torch.equal(outputs[row:].view(torch.int32), clean[row:].view(torch.int32))


def is_same(request: Request, found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Compare a row bit for bit, or to rounding where a product of matrices was added."""
    fired = request.fired()
    if fired is not None and fired.manifest.rank:
        return torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    # Integer views: torch.equal cannot tell -0.0 from +0.0.
    return torch.equal(found.view(torch.int32), expected.view(torch.int32))
