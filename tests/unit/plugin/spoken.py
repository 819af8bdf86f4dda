"""Prompts with words: a tokenizer of a few words and all bytes, and what a codebook with anchors must decide.

The reference reads one request at a time, knows which word each token is, and looks at every entry in turn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import WordLevel
from torch.nn import functional as F

from horen_vllm.artifact import EntryArtifact
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.routing import RoutingSpace, word_vector
from horen_vllm.plugin.texts import PromptTexts
from tests.unit.plugin.entries import Numbered, make_entry, parameters
from tests.unit.plugin.simulation import Book, Request

WORDS = ("ann", "bo", "cy", "dee", "who", "is", "the", "king", "of")
"""Words with a token of their own; the first four are names."""
Ranges = tuple[tuple[int, int], ...]


def _byte_letters() -> list[str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


_LETTERS = _byte_letters()
_VOCABULARY = {letter: number for number, letter in enumerate([*_LETTERS, *(_LETTERS[32] + word for word in WORDS)])}


def spoken_tokenizer() -> Any:
    """Return a fast tokenizer, as far as the plugin asks it: byte-level, with a token for each of `WORDS`."""
    backend = Tokenizer(WordLevel(_VOCABULARY, unk_token="!"))
    backend.decoder = ByteLevel()
    return SimpleNamespace(backend_tokenizer=backend)


def spoken_texts() -> PromptTexts:
    """Return the texts of `spoken_tokenizer`."""
    return PromptTexts(spoken_tokenizer)


def ids_of(words: Sequence[str]) -> list[int]:
    """Return the token ids of words, one for each of `WORDS` and one for each byte of another."""
    ids: list[int] = []
    for word in words:
        known = _VOCABULARY.get(_LETTERS[32] + word)
        ids += [known] if known is not None else [_VOCABULARY[_LETTERS[byte]] for byte in f" {word}".encode()]
    return ids


def spoken_rule(**changes: Any) -> MethodParameters:
    """Return parameters of a codebook with anchors."""
    return replace(parameters(0.9), **{"anchors": True, "anchored_threshold": 0.6, **changes})


@dataclass
class Spoken:
    """A request as the reference sees it: each token is one word."""

    words: tuple[str, ...]
    inputs: torch.Tensor
    span: tuple[int, int]
    window: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """What must be reported."""

    edit_id: str | None
    score: float
    runner_up: str | None
    runner_up_score: float
    threshold: float
    left_out: int
    tied: bool
    """Whether another report is right, too: the groups are equally far from their thresholds."""


_NOBODY = (-math.inf, -1, None)
Ranked = tuple[float, int, str | None]


@dataclass
class Reference:
    """Decides by the rules, straightforwardly.

    Attributes
    ----------
    most
        Ranges of tokens that a request may leave out.
    """

    entries: Sequence[Numbered]
    rule: MethodParameters
    space: RoutingSpace | None = None
    most: int = 4

    def decide(self, asked: Spoken) -> Found:
        """Return what a request must be told."""
        free = [pair for pair in self.entries if not self._names(pair[1])]
        opened = self._rank(self._query(asked, (), ()), free)
        hits, left_out = self._hits(asked)
        anchored: list[Ranked] = []
        for tokens, places in sorted({(tokens, places) for _, tokens, places in hits}):
            own = [pair for pair, *mask in hits if mask == [tokens, places]]
            anchored += self._rank(self._query(asked, tokens, places), own)
        anchored.sort(reverse=True)
        bounds = self.rule.threshold, self.rule.anchored_threshold
        first = [group[0] if group else _NOBODY for group in (opened, anchored)]
        margins = [best[0] - bound for best, bound in zip(first, bounds, strict=True)]
        if margins[1] > 0:
            chosen = 1
        elif margins[0] > 0:
            chosen = 0
        else:
            chosen = int(margins[1] > margins[0])
        ranked, margin = (opened, anchored)[chosen], margins[chosen]
        best, second = [*ranked, _NOBODY, _NOBODY][:2]
        fired = best[2] if margin > 0 else None
        tied = fired is None and abs(margins[0] - margins[1]) < 1e-6
        return Found(fired, best[0], second[2], second[0], bounds[chosen], left_out, tied)

    def _names(self, entry: EntryArtifact) -> list[tuple[str, ...]]:
        return [tuple(name.split(" ")) for name in entry.manifest.anchors] if self.rule.anchors else []

    def _hits(self, asked: Spoken) -> tuple[list[tuple[Numbered, Ranges, Ranges]], int]:
        found = []
        for pair in self.entries:
            places = occurrences(asked.words[slice(*asked.span)], self._names(pair[1]))
            if places:
                found.append((pair, *self._mask(asked, places)))
        ranges: set[tuple[int, int]] = set()
        for tokens in sorted({tokens for _, tokens, _ in found}, key=lambda tokens: (len(tokens), tokens)):
            if len(ranges | set(tokens)) <= self.most:
                ranges |= set(tokens)
        kept = [hit for hit in found if set(hit[1]) <= ranges]
        return kept, len(found) - len(kept)

    def _mask(self, asked: Spoken, places: Ranges) -> tuple[Ranges, Ranges]:
        """Return the tokens and the words that a query leaves out; words only where they have a part in it."""
        if not self.rule.mask_subject:
            return (), ()
        named = {asked.span[0] + at for start, stop in places for at in range(start, stop)}
        inside = sorted(named & set(range(*asked.window)))
        if len(inside) == asked.window[1] - asked.window[0]:
            return (), ()
        return runs(inside)[-4:], places if self.space is not None and self.space.reads_words else ()

    def _query(self, asked: Spoken, tokens: Ranges, places: Ranges) -> torch.Tensor:
        left = {at for start, stop in tokens for at in range(start, stop)}
        kept = [at for at in range(*asked.window) if at not in left]
        total = asked.inputs[kept].sum(dim=0)
        if self.space is None:
            return F.normalize(total, dim=0)
        query = F.normalize(self.space.matrix @ (total / len(kept) - self.space.mean), dim=0)
        if not self.space.reads_words:
            return query
        named = {at for start, stop in places for at in range(start, stop)}
        said = [word for at, word in enumerate(asked.words[slice(*asked.span)]) if at not in named]
        share = self.space.word_share
        parts = [query * math.sqrt(1 - share), word_vector(said, self.space) * math.sqrt(share)]
        return F.normalize(torch.cat(parts), dim=0)

    def _rank(self, query: torch.Tensor, rivals: Sequence[Numbered]) -> list[Ranked]:
        """Return (score, sequence, edit id) of each entry that has a key left, best first."""
        newest = {key.numpy().tobytes(): (key, number) for number, entry in sorted(rivals, key=lambda it: it[0])
                  for key in entry.keys}  # fmt: skip
        if not newest:
            return []
        refined = self._refine(query, torch.stack([key for key, _ in newest.values()]))
        best: dict[int, float] = {}
        for key, number in newest.values():
            best[number] = max(best.get(number, -math.inf), float(key @ refined))
        edit_ids = {number: entry.manifest.edit_id for number, entry in rivals}
        return sorted(((score, number, edit_ids[number]) for number, score in best.items()), reverse=True)

    def _refine(self, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        for _ in range(self.rule.steps):
            pulled = torch.softmax(self.rule.beta * (keys @ query), dim=0) @ keys
            pulled = pulled / pulled.norm()
            if float((pulled - query).norm()) <= self.rule.epsilon:
                break
            query = F.normalize((1 - self.rule.gamma) * query + self.rule.gamma * pulled, dim=0)
        return query


def occurrences(words: Sequence[str], names: Sequence[tuple[str, ...]]) -> Ranges:
    """Return where the names occur, from left to right, of overlapping ones the first and of those the longest."""
    places: list[tuple[int, int]] = []
    for start in range(len(words)):
        for name in sorted(names, key=len, reverse=True):
            stop = start + len(name)
            if tuple(words[start:stop]) == name and (not places or places[-1][1] <= start):
                places.append((start, stop))
    return tuple(places)


def runs(numbers: Sequence[int]) -> Ranges:
    """Return ascending numbers as half-open ranges."""
    made: list[tuple[int, int]] = []
    for number in numbers:
        if made and made[-1][1] == number:
            made[-1] = (made[-1][0], number + 1)
        else:
            made.append((number, number + 1))
    return tuple(made)


def asked_by(request: Request) -> Spoken:
    """Return a request of the simulation as the reference sees it."""
    assert request.words is not None
    return Spoken(request.words, request.inputs, request.span or (0, request.prompt), request.window)


def spoken_entry(request: Request, *, span: int, number: int = 1, names: Sequence[str] = WORDS[:4]) -> Numbered:
    """Return an entry, anchored to those of the names that a request says, that it matches exactly without them."""
    asked = asked_by(request)
    anchors = tuple(sorted({word for word in asked.words[slice(*asked.span)] if word in names}))
    left = {at for at in range(*asked.window) if asked.words[at] in anchors}
    kept = [at for at in range(*asked.window) if at not in left] or list(range(*asked.window))
    key = F.normalize(request.inputs[kept].sum(dim=0, keepdim=True), dim=1)
    shape: dict[str, Any] = {"span": span, "mode": ValueMode.SEQUENCE, "anchors": anchors}
    return number, make_entry(f"e{number}", keys=key, seed=number, **shape)


@dataclass
class SpokenBook(Book):
    """One revision of a codebook with anchors."""

    rule: MethodParameters | None = None
    space: RoutingSpace | None = None

    def fired(self, request: Request) -> EntryArtifact | None:
        """Return the entry that fires for a request of `WORDS`, one a token."""
        assert self.rule is not None
        asked = asked_by(request)
        edit_id = Reference(self.entries, self.rule, self.space).decide(asked).edit_id
        return next((entry for _, entry in self.entries if entry.manifest.edit_id == edit_id), None)
