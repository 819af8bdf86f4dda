"""Subject masks: which tokens and words a query leaves out so that it asks what is said of a subject, not of whom."""

from collections.abc import Iterable
from dataclasses import dataclass

from horen_vllm.core.words import TokenText

TokenRange = tuple[int, int]
"""Half-open range of prompt positions."""


@dataclass(frozen=True, slots=True)
class SubjectMask:
    """What a query is made of besides its window.

    Attributes
    ----------
    tokens
        Ranges inside the query window that are left out, ascending and apart; empty: none is.
    words
        Compared forms of the query span's words that are kept.
    """

    tokens: tuple[TokenRange, ...]
    words: tuple[str, ...]


def no_mask(text: TokenText) -> SubjectMask:
    """Return the mask that leaves nothing out."""
    return SubjectMask((), tuple(word.text for word in text.words))


def subject_mask(text: TokenText, window: TokenRange, places: Iterable[tuple[int, int]]) -> SubjectMask:
    """Return the mask of a subject that stands at `places` (ranges of the text's words) of a query span.

    Where nothing of the window would be left, nothing is left out.

    Parameters
    ----------
    text
        Of the query span.
    window
        The query window, as prompt positions.
    """
    places = tuple(places)
    cut = ((max(first, window[0]), min(stop, window[1])) for first, stop in text.token_ranges(places))
    tokens = tuple((first, stop) for first, stop in cut if first < stop)
    if sum(stop - first for first, stop in tokens) == window[1] - window[0]:
        return no_mask(text)
    named = {at for first, stop in places for at in range(first, stop)}
    return SubjectMask(tokens, tuple(word.text for at, word in enumerate(text.words) if at not in named))
