"""Subject masks: which tokens and words a query leaves out so that it asks what is said of a subject, not of whom."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from horen_vllm.core.anchors import WordRange
from horen_vllm.core.words import TokenText

MOST_RANGES: Final = 4
"""Token ranges that the queries of one prompt may leave out; of one subject, its last ones."""
MOST_QUERIES: Final = 8
"""Queries with different masks that one prompt may have."""

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


@dataclass(frozen=True, slots=True)
class SharedQueries:
    """The queries of a prompt that names several subjects.

    Attributes
    ----------
    ranges
        Token ranges that some query leaves out, ascending.
    queries
        Each mask, and the entries whose query has it, ascending.
    left_out
        Entries that do not compete, for lack of room.
    """

    ranges: tuple[TokenRange, ...]
    queries: tuple[tuple[SubjectMask, tuple[int, ...]], ...]
    left_out: frozenset[int]


def shared_queries(masks: Mapping[int, SubjectMask], most_ranges: int = MOST_RANGES) -> SharedQueries:
    """Return the queries by which entries compete for a prompt; editor and server both ask this.

    Where there is no room for all, masks that leave out fewer ranges go first, and of those the ones that begin
    earlier: a name that stands everywhere cannot push out one that stands once.

    Parameters
    ----------
    masks
        By entry.
    most_ranges
        Token ranges that there is room for.
    """
    members: dict[SubjectMask, list[int]] = {}
    for entry, mask in sorted(masks.items()):
        members.setdefault(mask, []).append(entry)
    ranges: set[TokenRange] = set()
    queries: dict[SubjectMask, tuple[int, ...]] = {}
    for mask in sorted(members, key=lambda mask: (len(mask.tokens), mask.tokens, mask.words)):
        if len(ranges.union(mask.tokens)) <= most_ranges and len(queries) < MOST_QUERIES:
            ranges.update(mask.tokens)
            queries[mask] = tuple(members[mask])
    left_out = frozenset(masks).difference(*queries.values())
    return SharedQueries(tuple(sorted(ranges)), tuple(queries.items()), left_out)


def subject_masks(
    text: TokenText, window: TokenRange, places: Mapping[int, tuple[WordRange, ...]], *, words: bool
) -> dict[int, SubjectMask]:
    """Return the mask of each entry whose subject stands at some places.

    Parameters
    ----------
    words
        Whether words are part of a query; where they are not, masks differ in their tokens only.
    """
    whole = no_mask(text)
    found = {at: subject_mask(text, window, at) for at in set(places.values())}
    if not words:
        found = {at: SubjectMask(mask.tokens, whole.words) for at, mask in found.items()}
    return {entry: found[at] for entry, at in places.items()}


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
    tokens = tuple((first, stop) for first, stop in cut if first < stop)[-MOST_RANGES:]
    if sum(stop - first for first, stop in tokens) == window[1] - window[0]:
        return no_mask(text)
    named = {at for first, stop in places for at in range(first, stop)}
    return SubjectMask(tokens, tuple(word.text for at, word in enumerate(text.words) if at not in named))
