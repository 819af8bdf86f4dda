"""Which anchored entries compete for a request, and with which queries; decided at admission from the prompt's text.

An entry competes where one of its anchors occurs in the query span. With masks its query leaves its subject out, so
a request may have several queries. What a query leaves out is summed apart, in ranges of tokens; a request has room
for a few of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from horen_vllm.core.anchors import WordRange
from horen_vllm.core.masks import SubjectMask, TokenRange, no_mask, subject_mask
from horen_vllm.core.words import TokenText
from horen_vllm.plugin.revisions import RevisionView


@dataclass(frozen=True, slots=True)
class AnchoredQuery:
    """One query of a request, and the entries that compete for it."""

    mask: SubjectMask
    ranges: tuple[int, ...]
    """Which of the request's `Subjects.ranges` it leaves out."""
    entries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Subjects:
    """What a request's text says to the revision that it is routed through."""

    words: tuple[str, ...] = ()
    """Compared forms of the query span's words."""
    ranges: tuple[TokenRange, ...] = ()
    """Prompt positions inside the query window that are summed apart."""
    queries: tuple[AnchoredQuery, ...] = ()
    left_out: frozenset[int] = frozenset()
    """Entries that do not compete because their subjects need more ranges than a request has."""

    @property
    def competing(self) -> frozenset[int]:
        """The anchored entries that compete."""
        return frozenset(entry for query in self.queries for entry in query.entries)


NO_SUBJECTS: Final = Subjects()
"""Of a request whose revision reads no text."""


def subjects_of(text: TokenText, window: TokenRange, view: RevisionView, most: int) -> Subjects:
    """Return what competes for a request.

    Parameters
    ----------
    text
        Of the query span.
    window
        The query window, as prompt positions.
    most
        Ranges that one request may have.
    """
    words = tuple(word.text for word in text.words)
    hits = view.names.find(words) if view.names is not None else {}
    masks = _masks(text, window, view, hits)
    ranges = sorted({part for mask in masks.values() for part in mask.tokens})[:most]
    place = {part: number for number, part in enumerate(ranges)}
    left_out = frozenset(entry for entry, mask in masks.items() if not set(mask.tokens) <= place.keys())
    grouped: dict[SubjectMask, list[int]] = {}
    for entry, mask in masks.items():
        if entry not in left_out:
            grouped.setdefault(mask, []).append(entry)
    queries = tuple(
        AnchoredQuery(mask, tuple(place[part] for part in mask.tokens), tuple(sorted(entries)))
        for mask, entries in grouped.items()
    )
    return Subjects(words, tuple(ranges), queries, left_out)


def _masks(
    text: TokenText, window: TokenRange, view: RevisionView, hits: Mapping[int, tuple[WordRange, ...]]
) -> dict[int, SubjectMask]:
    whole = no_mask(text)
    if not view.parameters.mask_subject:
        return dict.fromkeys(hits, whole)
    masks = {entry: subject_mask(text, window, places) for entry, places in hits.items()}
    if view.reads_words:
        return masks
    # Where words have no part in a query, hits with the same tokens share theirs.
    return {entry: SubjectMask(mask.tokens, whole.words) for entry, mask in masks.items()}
