"""Anchors: the names by which an entry's subject is known, and which entries a text speaks of.

An entry with anchors may fire only where one of them occurs in the query span, word by word (`core.words`). Finding
them costs a few dictionary look-ups for each word of the text, however many names there are.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from horen_vllm.core.words import plain_words
from horen_vllm.errors import InvalidArgument

MAX_WORDS: Final = 32
"""Longest name, in words."""

Anchor = tuple[str, ...]
"""A name as its words."""
WordRange = tuple[int, int]
"""Half-open range of a text's words."""


def anchor_of(name: str) -> Anchor:
    """Return a name as its words.

    Raises
    ------
    InvalidArgument
        ``invalid_anchor``, for a name without a letter or digit, or with more than `MAX_WORDS` words.
    """
    words = plain_words(name)
    if not 1 <= len(words) <= MAX_WORDS:
        what = "has no letter or digit" if not words else f"has {len(words)} words, more than {MAX_WORDS}"
        raise InvalidArgument(f"the name {name!r} {what}, so it cannot be looked for.", code="invalid_anchor")
    return words


class AnchorTable:
    """The anchors of a revision's entries.

    Parameters
    ----------
    anchors
        Anchors by the number of the entry that they stand for; an entry without any is not in it.
    """

    def __init__(self, anchors: Mapping[int, Iterable[Anchor]]) -> None:
        self._entries: dict[Anchor, list[int]] = {}
        lengths: dict[str, set[int]] = {}
        for entry, names in anchors.items():
            for name in set(names):
                self._entries.setdefault(name, []).append(entry)
                lengths.setdefault(name[0], set()).add(len(name))
        self._lengths = {word: tuple(sorted(sizes, reverse=True)) for word, sizes in lengths.items()}

    def __len__(self) -> int:
        """Count the distinct names."""
        return len(self._entries)

    def find(self, words: Sequence[str]) -> dict[int, tuple[WordRange, ...]]:
        """Return the entries that `words` speak of, and where: ranges that do not overlap, ascending.

        Of an entry's names that overlap, the one that begins first counts, and of those the longest.
        """
        found: dict[int, list[WordRange]] = {}
        for start, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                for entry in self._entries.get(tuple(words[start : start + length]), ()):
                    places = found.setdefault(entry, [])
                    if not places or places[-1][1] <= start:
                        places.append((start, start + length))
        return {entry: tuple(places) for entry, places in found.items()}
