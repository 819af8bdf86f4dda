"""Codebooks that read text, for engine tests: a fitted space with anchors and masks, words in it, and GRACE's radii.

Words and names are found here, by looking at every word; the oracle is told.
"""

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer

from horen_vllm.core.words import TokenText
from horen_vllm.pieces import token_text
from tests.e2e.oracle import Oracle, OracleBook, OracleEntry
from tests.e2e.oracle_routing import OracleHit, OracleSpace, OracleText

SPOKEN = "tenants/default/codebooks/spoken"
WORDED = "tenants/default/codebooks/worded"
NAMED = "tenants/default/codebooks/named"
GRACE = "tenants/default/codebooks/grace"
RANK, BUCKETS = 24, 64


class SpokenBooks:
    """Makes the codebooks for some prompts, and reads prompts for them.

    Parameters
    ----------
    oracle
        Makes the keys.
    folder
        Of the model, for its tokenizer.
    texts
        The prompts.
    """

    def __init__(self, oracle: Oracle, folder: str, texts: Sequence[list[int]], seed: int) -> None:
        self._oracle, self._texts = oracle, texts
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._width = int(oracle.model.config.hidden_size)

    def books(self) -> dict[str, OracleBook]:
        """Return a codebook of each kind by name."""
        bare = {
            SPOKEN: OracleBook((), threshold=0.8, anchored_threshold=0.7, masks=True, space=self._space(0)),
            WORDED: OracleBook(
                (), threshold=0.8, anchored_threshold=0.7, masks=True, space=self._space(BUCKETS), gamma=0.1, steps=1
            ),
            NAMED: OracleBook((), threshold=0.98, anchored_threshold=0.95, masks=True),
        }
        made = {name: dataclasses.replace(book, entries=self._entries(book, name)) for name, book in bare.items()}
        return made | {GRACE: self._grace()}

    def read(self, prompt: list[int], book: OracleBook) -> OracleText:
        """Return what a prompt says to a codebook."""
        text = token_text(self._tokenizer, prompt, (0, len(prompt)))
        said = tuple(word.text for word in text.words)
        places = {entry.edit_id: _places(said, entry.anchors) for entry in book.entries if entry.anchors}
        return OracleText(said, {name: _hit(text, found) for name, found in places.items() if found})

    def _space(self, buckets: int) -> OracleSpace:
        """Return a random space around half the mean of the prompts' site inputs."""
        means = torch.stack([self._oracle.inputs(text).mean(0) for text in self._texts])
        centre = (means.mean(0) / 2).float()
        matrix = torch.randn(RANK, len(centre), generator=self._generator) / len(centre) ** 0.5
        rarity = torch.rand(97, generator=self._generator) + 0.1
        return OracleSpace(centre, matrix, rarity, 0.25 if buckets else 0.0, buckets)

    def _entries(self, book: OracleBook, name: str) -> tuple[OracleEntry, ...]:
        made = []
        for number, prompt in enumerate(self._texts, start=1):
            if number % 5 == 4:
                continue
            said = self.read(prompt, book).words
            anchors = self._names(said) if number % 3 else ()
            entry = OracleEntry(
                edit_id=f"{name.rpartition('/')[2]}-{number}",
                sequence=number,
                keys=torch.empty(0),
                values=torch.randn(3, self._width, generator=self._generator) * 8,
                mode="sequence",
                span=3,
                anchors=anchors,
            )
            text = self.read(prompt, dataclasses.replace(book, entries=(entry,)))
            key = self._oracle.key(prompt, book, text, text.hits.get(entry.edit_id))
            made.append(dataclasses.replace(entry, keys=key[None]))
        return tuple(made)

    def _names(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return one or two names out of a prompt's words, each of one or two of them."""
        names = []
        for _ in range(self._random.choice((1, 2))):
            start, length = self._random.randrange(len(words)) if words else 0, self._random.choice((1, 1, 2))
            names.append(" ".join(words[start : start + length]))
        return tuple(name for name in dict.fromkeys(names) if name)

    def _grace(self) -> OracleBook:
        """Return a codebook of last tokens' activations; every third entry's radius is smaller than any distance."""
        made = []
        for number, prompt in enumerate(self._texts[::2], start=1):
            activation = self._oracle.inputs(prompt)[-1]
            noise = torch.randn(len(activation), generator=self._generator)
            beside = activation + noise / noise.norm() * activation.norm() * 0.05
            made.append(
                OracleEntry(
                    edit_id=f"grace-{number}",
                    sequence=number,
                    keys=beside.float()[None],
                    values=torch.randn(1, self._width, generator=self._generator) * 8,
                    mode="replace",
                    span=1,
                    radius=float(activation.norm()) * (0.01 if number % 3 == 0 else 0.1),
                )
            )
        return OracleBook(tuple(made), threshold=-1.0, ratio=1e-6, radius=True)


def _places(words: Sequence[str], anchors: Sequence[str]) -> list[tuple[int, int]]:
    """Return where the names stand, from left to right, of overlapping ones the first and of those the longest."""
    places: list[tuple[int, int]] = []
    names = sorted((name.split(" ") for name in anchors), key=len, reverse=True)
    for start in range(len(words)):
        for name in names:
            if list(words[start : start + len(name)]) == name and (not places or places[-1][1] <= start):
                places.append((start, start + len(name)))
    return places


def _hit(text: TokenText, places: Sequence[tuple[int, int]]) -> OracleHit:
    tokens = {
        at for first, last in places for at in range(*text.tokens(text.words[first].start, text.words[last - 1].stop))
    }
    ranges: list[tuple[int, int]] = []
    for at in sorted(tokens):
        if ranges and ranges[-1][1] == at:
            ranges[-1] = (ranges[-1][0], at + 1)
        else:
            ranges.append((at, at + 1))
    named = {at for first, last in places for at in range(first, last)}
    return OracleHit(tuple(ranges), tuple(word.text for at, word in enumerate(text.words) if at not in named))
