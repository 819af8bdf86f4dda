"""The soak's eight codebooks: every revision that was ever made, and the moves from one to the next."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch.nn import functional as F

from tests.e2e.oracle import Oracle, OracleBook, OracleEntry, Span
from tests.e2e.soak_load import Topic

CODEBOOKS = tuple(f"tenants/t{tenant}/codebooks/{book}" for tenant in range(4) for book in ("red", "blue"))
RANK = 4
# Standard deviation of a direct value, in multiples of the site output's rms; of the rows of a LoRA value's B^T.
VALUE_SCALE = 3.0
LORA_SCALE = 2.0
LONGEST_SPAN = 9


@dataclass(frozen=True)
class Style:
    """How a codebook routes and what its values are; `modes` are drawn from, "lora" and "chunked" among them."""

    preset: str
    template: OracleBook
    modes: tuple[str, ...]


STYLES = (
    Style("cosine", OracleBook((), threshold=0.95), ("chunked", "lora", "sequence", "chunked")),
    Style("horen-paper", OracleBook((), threshold=0.93, gamma=0.01, steps=1), ("answer",)),
    Style("horen-reference", OracleBook((), threshold=0.94, gamma=0.1, steps=1), ("last",)),
    Style(
        "cosine",
        OracleBook((), threshold=0.96, ratio=1.0, gamma=0.05, steps=3),
        ("sequence", "chunked", "answer", "last"),
    ),
)


@dataclass(frozen=True)
class Move:
    """An update of one codebook: what changes between the revision before it and `book`."""

    codebook: str
    preset: str
    base_revision: int
    revision: int
    book: OracleBook
    added: tuple[OracleEntry, ...]
    removed: tuple[str, ...]
    kind: str


@dataclass
class Shelf:
    """One codebook: its revisions by number and the one that the engine was last brought to."""

    name: str
    style: Style
    revisions: dict[int, OracleBook] = field(default_factory=dict)
    current: int = 0


class Library:
    """All codebooks, and a seeded source of moves.

    Parameters
    ----------
    oracle
        Makes the keys: an edit's keys are the queries of its topic in every form.
    topics, prefixes
        What the clients ask and before which system prompts.
    """

    def __init__(self, oracle: Oracle, topics: Sequence[Topic], prefixes: Sequence[tuple[int, ...]], seed: int) -> None:
        self._oracle, self._topics, self._prefixes = oracle, topics, prefixes
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._edits = 0
        self._scale = VALUE_SCALE * oracle.output_rms(topics[-1].tokens)
        self.shelves = {name: Shelf(name, STYLES[index % 4]) for index, name in enumerate(CODEBOOKS)}
        self._topic_of: dict[str, int] = {}

    def opening_move(self, name: str) -> Move:
        """Return the codebook's first revision: two thirds of the topics, edited."""
        count = 2 * len(self._topics) // 3
        chosen = self._random.sample(range(len(self._topics)), count)
        entries = tuple(self._edit(self.shelves[name], topic) for topic in chosen)
        return self._move(name, entries, "publishes", full=True)

    def reopening(self, name: str) -> Move:
        """Return the move that brings a dropped codebook back as it was."""
        return self._move(name, self._now(self.shelves[name]), "reopenings", full=True)

    def next_move(self, asked: Sequence[tuple[tuple[int, ...], Span]]) -> Move:
        """Return a publish, retirement, rollback or replacement of a random codebook.

        `asked` are prompts of the running conversations, on which an edit may also be made.
        """
        shelf = self.shelves[self._random.choice(CODEBOOKS)]
        kinds: dict[str, Callable[[Shelf, Sequence[tuple[tuple[int, ...], Span]]], tuple[OracleEntry, ...]]] = {
            "publishes": self._publish,
            "retirements": self._retire,
            "rollbacks": self._rollback,
        }
        kind = self._random.choices(tuple(kinds), weights=(5, 2, 3))[0]
        return self._move(shelf.name, kinds[kind](shelf, asked), kind, full=self._random.random() < 0.15)

    def applied(self, move: Move) -> None:
        """Note that the engine has taken a move."""
        shelf = self.shelves[move.codebook]
        shelf.revisions[move.revision] = move.book
        shelf.current = move.revision

    def _publish(self, shelf: Shelf, asked: Sequence[tuple[tuple[int, ...], Span]]) -> tuple[OracleEntry, ...]:
        topics = self._random.sample(range(len(self._topics)), self._random.choice((1, 2, 4)))
        # The new edit of a topic supersedes the old one.
        kept = [entry for entry in self._now(shelf) if self._topic_of.get(entry.edit_id) not in topics]
        new = [self._edit(shelf, topic) for topic in topics]
        if asked:
            prompt, span = self._random.choice(asked)
            new.append(self._entry(shelf, [self._oracle.query(prompt, shelf.style.template.ratio, span)]))
        return (*kept, *new)

    def _retire(self, shelf: Shelf, _asked: Sequence[tuple[tuple[int, ...], Span]]) -> tuple[OracleEntry, ...]:
        now = self._now(shelf)
        gone = set(self._random.sample(range(len(now)), min(len(now), self._random.choice((1, 3)))))
        return tuple(entry for index, entry in enumerate(now) if index not in gone)

    def _rollback(self, shelf: Shelf, _asked: Sequence[tuple[tuple[int, ...], Span]]) -> tuple[OracleEntry, ...]:
        return shelf.revisions[self._random.choice(sorted(shelf.revisions))].entries

    def _now(self, shelf: Shelf) -> tuple[OracleEntry, ...]:
        return shelf.revisions[shelf.current].entries

    def _edit(self, shelf: Shelf, topic: int) -> OracleEntry:
        ratio = shelf.style.template.ratio
        forms = self._topics[topic].forms(self._prefixes)
        entry = self._entry(shelf, [self._oracle.query(prompt, ratio, span) for prompt, span in forms])
        self._topic_of[entry.edit_id] = topic
        return entry

    def _entry(self, shelf: Shelf, keys: list[torch.Tensor]) -> OracleEntry:
        self._edits += 1
        mode = self._random.choice(shelf.style.modes)
        span = 1 if mode == "last" else self._random.randrange(1, LONGEST_SPAN + 1)
        share = 2 + self._edits % 2 if mode == "chunked" else 1
        if mode == "chunked":
            span = max(span, share + 1)
        return OracleEntry(
            edit_id=f"edit-{self._edits}",
            sequence=self._edits,
            keys=torch.stack(keys),
            values=self._values(mode, span, share),
            mode={"lora": "answer", "chunked": "sequence"}.get(mode, mode),
            span=span,
            rank=RANK if mode == "lora" else 0,
            share=share,
        )

    def _values(self, mode: str, span: int, share: int) -> torch.Tensor:
        width = int(self._oracle.model.config.hidden_size)
        rows = {"sequence": span, "chunked": math.ceil(span / share), "lora": 2 * RANK}.get(mode, 1)
        values = torch.randn(rows, width, generator=self._generator)
        if mode == "lora":
            return torch.cat([F.normalize(values[:RANK], dim=1), values[RANK:] * LORA_SCALE])
        return values * self._scale

    def _move(self, name: str, entries: tuple[OracleEntry, ...], kind: str, *, full: bool) -> Move:
        shelf = self.shelves[name]
        before = {entry.edit_id: entry for entry in self._now(shelf)} if shelf.current and not full else {}
        after = {entry.edit_id: entry for entry in entries}
        return Move(
            codebook=name,
            preset=shelf.style.preset,
            base_revision=0 if full else shelf.current,
            revision=shelf.current + 1,
            book=replace(shelf.style.template, entries=entries),
            added=tuple(entry for key, entry in after.items() if key not in before),
            removed=tuple(key for key in before if key not in after),
            kind=kind,
        )
