"""Which anchored entries compete for a request, and with which queries; decided at admission from the prompt's text.

An entry competes where one of its anchors occurs in the query span. With masks its query leaves its subject out, so
a request may have several queries. What a query leaves out is summed apart, in ranges of tokens; a request has room
for a few of them.
"""

from dataclasses import dataclass
from typing import Final

from horen_vllm.core.masks import SubjectMask, TokenRange, no_mask, shared_queries, subject_masks
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
    if view.parameters.mask_subject:
        masks = subject_masks(text, window, hits, words=view.reads_words)
    else:
        masks = dict.fromkeys(hits, no_mask(text))
    shared = shared_queries(masks, most)
    place = {part: number for number, part in enumerate(shared.ranges)}
    queries = tuple(
        AnchoredQuery(mask, tuple(place[part] for part in mask.tokens), entries) for mask, entries in shared.queries
    )
    return Subjects(words, shared.ranges, queries, shared.left_out)
