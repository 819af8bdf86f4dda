"""Words: the form in which texts are compared word by word, whatever their case, accents, punctuation or tokens.

A word is a run of letters, digits and their marks. In scripts that put no spaces between words (and in Hangul, where
particles stick to them) every character is a word of its own, so that a name is found inside a longer run.
"""

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Final, NamedTuple

_WORD_CATEGORIES: Final = frozenset("LNM")
_UNSPACED: Final = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1100, 0x11FF),  # Hangul jamo, into which syllables are decomposed
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # marks of repetition and closing, zero: they stand among ideographs
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x9FFF),  # CJK ideographs
    (0xAC00, 0xD7AF),  # Hangul syllables
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_STARTS: Final = tuple(first for first, _ in _UNSPACED)
_FIRST_JAMO, _FIRST_VOWEL, _LAST_JAMO = "\u1100", "\u1160", "\u11ff"
"""Hangul jamo: a syllable is one beginning, then vowels and ends."""
_FIRST_VARIATION, _LAST_VARIATION = "\ufe00", "\ufe0f"


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a text: its compared form, and the half-open character range that it stands in."""

    text: str
    start: int
    stop: int


def words_of(text: str) -> tuple[Word, ...]:
    """Return the words of `text` in order; the same ones for texts that are canonically equivalent."""
    words: list[Word] = []
    parts: list[_Part] = []
    start = stop = 0

    def finish() -> None:
        if parts:
            # Marks in whatever order they were typed.
            words.append(Word(unicodedata.normalize("NFD", "".join(part.text for part in parts)), start, stop))
            parts.clear()

    for index, char in enumerate(text):
        folded = _folded(char)
        if folded is None:
            finish()
            continue
        for part in folded:
            if parts and _begins(part, parts[0]):
                finish()
            if not parts:
                start = index
            # A mark without anything that it could stand on is no word.
            if parts or not part.mark:
                parts.append(part)
        if parts:
            stop = index + 1
    finish()
    return tuple(words)


def plain_words(text: str) -> tuple[str, ...]:
    """Return the compared forms of the words of `text`."""
    return tuple(word.text for word in words_of(text))


class _Part(NamedTuple):
    """What a character gives to a word, or a piece of it."""

    text: str
    mark: bool
    alone: bool
    """Whether it is of a script without spaces."""


@lru_cache(maxsize=1 << 14)
def _folded(char: str) -> tuple[_Part, ...] | None:
    """Return what a character gives to a word: perhaps nothing (an accent); None for what stands between words."""
    if not _is_of_words(char):
        return None  # though its decomposition may have letters, as that of a trade mark's sign has
    # Once more behind the case: some letters, such as those of mathematics, have one only when decomposed.
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    return tuple(
        _Part(part, _is_mark(part), _is_unspaced(part))
        for part in plain
        if _is_of_words(part) and not _is_left_out(part)
    )


def _begins(part: _Part, head: _Part) -> bool:
    """Whether a part begins a word of its own behind a word that begins with `head`."""
    if part.mark or (_FIRST_VOWEL <= part.text <= _LAST_JAMO and _FIRST_JAMO <= head.text <= _LAST_JAMO):
        return False
    return part.alone or head.alone


def _is_of_words(char: str) -> bool:
    return unicodedata.category(char)[0] in _WORD_CATEGORIES


def _is_left_out(char: str) -> bool:
    """Whether a mark says nothing: accents of alphabets, Hebrew points, Arabic vowels, how an emoji looks.

    No vowel of an abugida is.
    """
    order = unicodedata.combining(char)
    return 10 <= order <= 36 or 200 <= order <= 240 or _FIRST_VARIATION <= char <= _LAST_VARIATION


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] == "M"


def _is_unspaced(char: str) -> bool:
    at = bisect_right(_STARTS, ord(char)) - 1
    return at >= 0 and ord(char) <= _UNSPACED[at][1] and not _is_mark(char)


class TokenText:
    """The text of some tokens in a row, and which of them a range of its characters belongs to.

    Parameters
    ----------
    pieces
        Text of each token; empty where a token alone is no whole character, whose text the next one then has.
    first
        Number of the first token.
    """

    def __init__(self, pieces: Sequence[str], first: int = 0) -> None:
        self.text = "".join(pieces)
        self.words = words_of(self.text)
        self._first = first
        self._ends = list(accumulate(map(len, pieces)))

    def tokens(self, start: int, stop: int) -> tuple[int, int]:
        """Return the half-open range of tokens that hold the characters [start, stop), stop > start."""
        # A token with an empty piece ends where its neighbour begins, so the leftmost one counts as part of it.
        first = bisect_right(self._ends, start)
        while first > 0 and self._ends[first - 1] == start and self._starts(first - 1) == start:
            first -= 1
        return self._first + first, self._first + bisect_left(self._ends, stop) + 1

    def token_ranges(self, word_ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Return the token ranges of some ranges of `words`, joined where they touch, ascending."""
        joined: list[tuple[int, int]] = []
        for first, last in sorted(word_ranges):
            start, stop = self.tokens(self.words[first].start, self.words[last - 1].stop)
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
            else:
                joined.append((start, stop))
        return tuple(joined)

    def _starts(self, token: int) -> int:
        return self._ends[token - 1] if token else 0
