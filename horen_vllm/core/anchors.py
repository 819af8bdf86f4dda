"""Anchors: the names by which an entry's subject is known, and which entries a text speaks of.

An entry with anchors may fire only where one of them occurs in the query span, word by word (`core.words`). Finding
them costs a few dictionary look-ups for each word of the text, however many names there are.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from horen_vllm.core.words import plain_words
from horen_vllm.errors import InvalidArgument

MAX_WORDS: Final = 128
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
    """The anchors of a codebook's entries.

    Parameters
    ----------
    anchors
        Anchors by the number of the entry that they stand for; an entry without any is not in it.
    """

    def __init__(self, anchors: Mapping[int, Iterable[Anchor]] | None = None) -> None:
        self._entries: dict[Anchor, dict[int, None]] = {}
        self._lengths: dict[str, dict[int, int]] = {}
        for entry, names in (anchors or {}).items():
            self.add(entry, names)

    def __len__(self) -> int:
        """Count the distinct names."""
        return len(self._entries)

    def add(self, entry: int, names: Iterable[Anchor]) -> None:
        """Let `names` stand for an entry, besides those that do already."""
        for name in set(names):
            entries = self._entries.setdefault(name, {})
            if not entries:
                lengths = self._lengths.setdefault(name[0], {})
                lengths[len(name)] = lengths.get(len(name), 0) + 1
            entries[entry] = None

    def remove(self, entry: int, names: Iterable[Anchor]) -> None:
        """Take back what `add` said."""
        for name in set(names):
            del self._entries[name][entry]
            if self._entries[name]:
                continue
            del self._entries[name]
            lengths = self._lengths[name[0]]
            lengths[len(name)] -= 1
            if not lengths[len(name)]:
                del lengths[len(name)]
            if not lengths:
                del self._lengths[name[0]]

    def find(self, words: Sequence[str]) -> dict[int, tuple[WordRange, ...]]:
        """Return the entries that `words` speak of, and where: ranges that do not overlap, ascending.

        Of an entry's names that overlap, the one that begins first counts, and of those the longest.
        """
        found: dict[int, list[WordRange]] = {}
        for start, word in enumerate(words):
            for length in sorted(self._lengths.get(word, ()), reverse=True):
                name = tuple(words[start : start + length])
                # At the end of the text fewer words are left, which may be a shorter name.
                for entry in self._entries.get(name, ()) if len(name) == length else ():
                    places = found.setdefault(entry, [])
                    if not places or places[-1][1] <= start:
                        places.append((start, start + length))
        return {entry: tuple(places) for entry, places in found.items()}
