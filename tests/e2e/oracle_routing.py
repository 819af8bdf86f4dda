"""The oracle's routing: which entry of a codebook a prompt matches, from its site inputs and what its text says.

Written from the paper's equations and the design's rules in double precision; imports nothing of the method's code.
What words and names a prompt has it is told.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

MOST_RANGES = 4
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class OracleEntry:
    """An entry: unit keys [k, d], value rows [rows, d_out], and the answer positions that they are written at.

    A row of mode "sequence" is written at `share` positions in a row, one of "replace" in place of the output at the
    first, one of the other modes at all. With a rank r the rows are a LoRA adaptor, A^T [r, d_out] above B^T
    [r, d_out]: h becomes h + (h A) B^T. An entry with anchors competes only where one of them is said. With a radius
    the keys are activations, and the nearest decides.
    """

    edit_id: str
    sequence: int
    keys: torch.Tensor
    values: torch.Tensor
    mode: str
    span: int
    rank: int = 0
    share: int = 1
    anchors: tuple[str, ...] = ()
    radius: float = 0.0

    def write(self, output: torch.Tensor, offset: int) -> torch.Tensor:
        """Return the site's output [d_out] at answer position `offset`, edited."""
        if not 0 <= offset < self.span:
            return output
        if self.rank:
            return output + (self.values[: self.rank] @ output) @ self.values[self.rank :]
        if self.mode == "replace":
            return self.values[0]
        if self.mode != "sequence":
            return output + self.values[0]
        return output + self.values.repeat_interleave(self.share, dim=0)[offset]


@dataclass(frozen=True, eq=False)
class OracleSpace:
    """A fitted space: mean [D], whitening [r, D], and the weights [R], the share and the columns of hashed words."""

    mean: torch.Tensor
    matrix: torch.Tensor
    rarity: torch.Tensor
    share: float
    buckets: int

    def query(self, mean: torch.Tensor, words: Sequence[str]) -> torch.Tensor:
        """Return the unit query [r + H] of an averaged site input and some words."""
        dense = _unit(self.matrix.double() @ (mean - self.mean.double()))
        if not self.buckets:
            return dense
        joined = torch.cat([math.sqrt(1 - self.share) * dense, math.sqrt(self.share) * self._words(words)])
        return _unit(joined)

    def _words(self, words: Sequence[str]) -> torch.Tensor:
        """Return the signed, hashed and weighted words and pairs of neighbours, each once."""
        vector = torch.zeros(self.buckets, dtype=torch.float64)
        for said in {*words, *(f"{one} {next_one}" for one, next_one in pairwise(words))}:
            number = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "little") >> 2
            weight = float(self.rarity[(number >> 32) % len(self.rarity)])
            vector[(number >> 1) % self.buckets] += weight * (1.0 if number & 1 else -1.0)
        norm = float(vector.norm())
        return vector / norm if norm else vector


@dataclass(frozen=True)
class OracleHit:
    """Where a prompt speaks of an entry: token ranges, and the words that are left without the name."""

    tokens: Ranges
    words: tuple[str, ...]


@dataclass(frozen=True)
class OracleText:
    """What a prompt says: the words of its query span, and the entries that it speaks of."""

    words: tuple[str, ...] = ()
    hits: Mapping[str, OracleHit] = field(default_factory=dict)


@dataclass(frozen=True)
class OracleBook:
    """A revision of a codebook."""

    entries: tuple[OracleEntry, ...]
    threshold: float
    ratio: float = 0.6
    beta: float = 20.0
    gamma: float = 0.0
    steps: int = 0
    epsilon: float = 1e-5
    space: OracleSpace | None = None
    anchored_threshold: float | None = None
    """None: anchors do not count."""
    masks: bool = False
    radius: bool = False


@dataclass(frozen=True)
class Contest:
    """Entries that compete with each other under one threshold, best first: (score, sequence, entry)."""

    ranked: tuple[tuple[float, int, OracleEntry], ...]
    threshold: float

    @property
    def margin(self) -> float:
        """By how much the best score exceeds its threshold."""
        return self.ranked[0][0] - self.bound if self.ranked else -math.inf

    @property
    def bound(self) -> float:
        """What the best score has to exceed."""
        return -self.ranked[0][2].radius if self.ranked and self.ranked[0][2].radius else self.threshold


def decided(book: OracleBook, inputs: torch.Tensor, window: tuple[int, int], text: OracleText) -> tuple[Contest, float]:
    """Return the contest that decides for a prompt with site inputs [P, D], and the other one's margin."""
    free = [entry for entry in book.entries if book.anchored_threshold is None or not entry.anchors]
    opened = Contest(_ranked(book, free, _query(book, inputs, window, (), text.words)), book.threshold)
    if book.anchored_threshold is None:
        return opened, -math.inf
    anchored = Contest(_anchored(book, inputs, window, text), book.anchored_threshold)
    if anchored.margin > 0 or (opened.margin <= 0 and anchored.margin > opened.margin):
        return anchored, opened.margin
    return opened, anchored.margin


def key_of(
    book: OracleBook, inputs: torch.Tensor, window: tuple[int, int], hit: OracleHit | None, words: Sequence[str]
) -> torch.Tensor:
    """Return the key that a prompt's own query would match exactly, in single precision."""
    tokens, said = _mask(book, window, hit, tuple(words)) if hit is not None else ((), tuple(words))
    return _query(book, inputs, window, tokens, said).float()


def _anchored(
    book: OracleBook, inputs: torch.Tensor, window: tuple[int, int], text: OracleText
) -> tuple[tuple[float, int, OracleEntry], ...]:
    masks = {
        entry.edit_id: _mask(book, window, text.hits[entry.edit_id], text.words)
        for entry in book.entries
        if entry.edit_id in text.hits
    }
    room: set[tuple[int, int]] = set()
    for tokens in sorted({tokens for tokens, _ in masks.values()}, key=lambda tokens: (len(tokens), tokens)):
        if len(room | set(tokens)) <= MOST_RANGES:
            room |= set(tokens)
    rivals: dict[tuple[Ranges, tuple[str, ...]], list[OracleEntry]] = {}
    for entry in book.entries:
        mask = masks.get(entry.edit_id)
        if mask is not None and set(mask[0]) <= room:
            shared = mask if book.space is not None and book.space.buckets else (mask[0], text.words)
            rivals.setdefault(shared, []).append(entry)
    ranked = [
        row
        for (tokens, words), entries in rivals.items()
        for row in _ranked(book, entries, _query(book, inputs, window, tokens, words))
    ]
    return tuple(sorted(ranked, key=lambda row: row[:2], reverse=True))


def _mask(
    book: OracleBook, window: tuple[int, int], hit: OracleHit, words: tuple[str, ...]
) -> tuple[Ranges, tuple[str, ...]]:
    """Return the token ranges inside the window that a query leaves out, and its words."""
    inside = [(max(start, window[0]), min(stop, window[1])) for start, stop in hit.tokens]
    tokens = tuple((start, stop) for start, stop in inside if start < stop)[-MOST_RANGES:]
    left = window[1] - window[0] - sum(stop - start for start, stop in tokens)
    return (tokens, hit.words) if book.masks and left else ((), words)


def _query(
    book: OracleBook, inputs: torch.Tensor, window: tuple[int, int], left_out: Ranges, words: Sequence[str]
) -> torch.Tensor:
    gone = {at for start, stop in left_out for at in range(start, stop)}
    mean = inputs[[at for at in range(*window) if at not in gone]].mean(0)
    if book.radius:
        return mean
    return _unit(mean) if book.space is None else book.space.query(mean, words)


def _ranked(
    book: OracleBook, entries: Sequence[OracleEntry], query: torch.Tensor
) -> tuple[tuple[float, int, OracleEntry], ...]:
    owned = _newest_of_equal_keys(entries)
    if not owned:
        return ()
    keys = torch.stack([key for key, _ in owned]).double()
    scores = -(keys - query).norm(dim=1) if book.radius else keys @ _refine(query, keys, book)
    best: dict[str, tuple[float, int, OracleEntry]] = {}
    for score, (_, entry) in zip(scores.tolist(), owned, strict=True):
        if entry.edit_id not in best or score > best[entry.edit_id][0]:
            best[entry.edit_id] = (score, entry.sequence, entry)
    return tuple(sorted(best.values(), key=lambda row: row[:2], reverse=True))


def _newest_of_equal_keys(entries: Sequence[OracleEntry]) -> list[tuple[torch.Tensor, OracleEntry]]:
    """Return the keys that count, each with its owner: of bit-equal keys only the newest edit's."""
    owned: dict[bytes, tuple[torch.Tensor, OracleEntry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.sequence):
        owned.update({key.numpy().tobytes(): (key, entry) for key in entry.keys})
    return list(owned.values())


def _unit(row: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = row / row.norm()
    return found


def _refine(query: torch.Tensor, keys: torch.Tensor, book: OracleBook) -> torch.Tensor:
    for _ in range(book.steps):
        weights = torch.exp(book.beta * (keys @ query - 1))
        pulled = (weights / weights.sum()) @ keys
        pulled = pulled / pulled.norm()
        if float((pulled - query).norm()) <= book.epsilon:
            break
        query = (1 - book.gamma) * query + book.gamma * pulled
        query = query / query.norm()
    return query
