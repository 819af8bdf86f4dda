"""Entries with anchors: who of them gets a prompt that names subjects, and which earlier prompts name a subject.

They compete only among those whose subject a prompt names, and go before all entries without anchors; so they need no
line-up of near keys, but the words of every context of the codebook. Shapes: k keys of an entry, W width of a key.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from horen_vllm.artifact import EntryArtifact, KeyContext
from horen_vllm.core.anchors import Anchor, AnchorTable
from horen_vllm.core.masks import shared_queries
from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.refine import refine
from horen_vllm.core.words import TokenText
from horen_vllm.editor.codebook.arena import NOBODY
from horen_vllm.editor.codebook.context_names import query_name
from horen_vllm.editor.codebook.lineup import TIE_MARGIN
from horen_vllm.editor.spoken import Reader

Ask = Callable[[Sequence[KeyContext], Sequence[Sequence[str]]], torch.Tensor]
"""Runs the model: the queries [contexts, W] of contexts, each with its words."""


@dataclass(frozen=True, slots=True)
class AnchoredEntry:
    """What routing needs of an entry with anchors."""

    sequence: int
    anchors: tuple[Anchor, ...]
    keys: torch.Tensor
    """[k, W] float32."""
    floor: float = -1.0
    """Score up to which it does not fire, whatever the threshold."""


@dataclass(frozen=True, slots=True)
class SubjectRuling:
    """Who gets a prompt among the entries with anchors."""

    entry: int = NOBODY
    """Sequence number of the entry that fires, or `NOBODY`."""
    best: int = NOBODY
    """Of the entry with the best score."""
    score: float = -torch.inf


class SubjectField:
    """The entries with anchors of one codebook, and the words of all its contexts.

    Parameters
    ----------
    parameters
        The codebook's.
    reader
        Reads contexts.
    ask
        Makes queries that no entry has as its key: of a prompt without another entry's subject.
    """

    def __init__(self, parameters: MethodParameters, reader: Reader, ask: Ask) -> None:
        self._parameters = parameters
        self._reader = reader
        self._ask = ask
        self._table = AnchorTable()
        self._entries: dict[int, AnchoredEntry] = {}
        self._contexts: dict[int, tuple[KeyContext, ...]] = {}
        self._by_word: dict[str, dict[tuple[int, int], None]] = {}
        self._queries: dict[bytes, dict[int, torch.Tensor]] = {}

    def add(self, sequence: int, artifact: EntryArtifact) -> bool:
        """Take in an entry's contexts, and the entry itself if it has anchors; return whether it has."""
        manifest = artifact.manifest
        self._contexts[sequence] = manifest.contexts
        for place, words in self._spoken(sequence):
            for word in words:
                self._by_word.setdefault(word, {})[sequence, place] = None
        if not manifest.anchors:
            return False
        anchors = tuple(tuple(name.split(" ")) for name in manifest.anchors)
        floor = -1.0 if manifest.floor is None else manifest.floor
        self._entries[sequence] = AnchoredEntry(sequence, anchors, artifact.keys.float(), floor)
        self._table.add(sequence, anchors)
        for name, key in zip(self._names(sequence), artifact.keys.float(), strict=bool(manifest.contexts)):
            self._queries.setdefault(name, {})[sequence] = key
        return True

    def remove(self, sequence: int) -> None:
        """Forget an entry."""
        for place, words in self._spoken(sequence):
            for word in words:
                del self._by_word[word][sequence, place]
                if not self._by_word[word]:
                    del self._by_word[word]
        if sequence in self._entries:
            for name in self._names(sequence):
                del self._queries[name][sequence]
                if not self._queries[name]:
                    del self._queries[name]
            self._table.remove(sequence, self._entries.pop(sequence).anchors)
        del self._contexts[sequence]

    def anchors_of(self, sequence: int) -> tuple[Anchor, ...]:
        """Return an entry's anchors; none where it fires without."""
        return self._entries[sequence].anchors if sequence in self._entries else ()

    def floor_of(self, sequence: int) -> float:
        """Return the score up to which an entry with anchors does not fire, whatever the threshold."""
        return self._entries[sequence].floor

    def key_of(self, context: KeyContext, words: Sequence[str]) -> torch.Tensor | None:
        """Return the key [W] that the newest entry with anchors has for this very context, mask and words."""
        return self._known(query_name(self._reader.keying, context, words))

    def naming(self, anchors: Collection[Anchor]) -> Iterator[tuple[int, int, KeyContext]]:
        """Yield the contexts that one of `anchors` occurs in: entry, place among its contexts, context."""
        wanted = AnchorTable({0: anchors})
        places: dict[tuple[int, int], None] = {}
        for anchor in anchors:
            rarest = min((self._by_word.get(word, {}) for word in anchor), key=len)
            places |= rarest
        for sequence, place in sorted(places):
            context = self._contexts[sequence][place]
            if wanted.find(_words(self._reader.text(context))):
                yield sequence, place, context

    def rule(
        self,
        context: KeyContext,
        *,
        without: Collection[int] = (),
        extra: AnchoredEntry | None = None,
        asked: dict[bytes, torch.Tensor] | None = None,
    ) -> SubjectRuling:
        """Return who gets a prompt among the entries but `without`, and with one more.

        Ties are as wide as `lineup.TIE_MARGIN`, and the newest entry wins.

        Parameters
        ----------
        asked
            Queries that are known besides the entries' keys, by `context_names.query_name`; takes what is asked for.
        """
        text = self._reader.text(context)
        places = {sequence: at for sequence, at in self._table.find(_words(text)).items() if sequence not in without}
        entries = {sequence: self._entries[sequence] for sequence in places}
        if extra is not None and (own := AnchorTable({extra.sequence: extra.anchors}).find(_words(text))):
            places |= own
            entries[extra.sequence] = extra
        scores = self._scores(context, text, places, entries, {} if asked is None else asked)
        if not scores:
            return SubjectRuling()
        highest = max(scores.values())
        best = max(sequence for sequence, score in scores.items() if score >= highest - TIE_MARGIN)
        fires = highest > max(self._parameters.anchored_threshold, entries[best].floor)
        return SubjectRuling(best if fires else NOBODY, best, highest)

    def _scores(
        self,
        context: KeyContext,
        text: TokenText,
        places: dict[int, tuple[tuple[int, int], ...]],
        entries: dict[int, AnchoredEntry],
        asked: dict[bytes, torch.Tensor],
    ) -> dict[int, float]:
        """Return each entry's best score; entries whose mask is the same share a query."""
        scores: dict[int, float] = {}
        for mask, members in shared_queries(self._reader.masks(text, context.span, places)).queries:
            masked = replace(context, masked=mask.tokens)
            name = query_name(self._reader.keying, masked, mask.words)
            query = self._known(name)
            if query is None:
                query = asked[name] if name in asked else asked.setdefault(name, self._ask([masked], [mask.words])[0])
            keys = torch.cat([entries[sequence].keys for sequence in members])
            counts = [len(entries[sequence].keys) for sequence in members]
            found = torch.split(keys @ self._refined(query, keys), counts)
            scores |= {sequence: float(part.max()) for sequence, part in zip(members, found, strict=True)}
        return scores

    def _known(self, name: bytes) -> torch.Tensor | None:
        holders = self._queries.get(name)
        return None if holders is None else holders[max(holders)]

    def _refined(self, query_W: torch.Tensor, keys_NW: torch.Tensor) -> torch.Tensor:
        of = self._parameters
        if of.steps:
            keys_NW = torch.unique(keys_NW, dim=0)  # a key that several entries have pulls once
        return refine(query_W[None], keys_NW, beta=of.beta, gamma=of.gamma, steps=of.steps, epsilon=of.epsilon)[0]

    def _names(self, sequence: int) -> Iterator[bytes]:
        """Yield the names of the queries that an entry with anchors has as its keys."""
        own = AnchorTable({sequence: self._entries[sequence].anchors})
        for context in self._contexts[sequence]:
            text = self._reader.text(context)
            mask = self._reader.mask(text, context.span, own.find(_words(text)).get(sequence, ()))
            yield query_name(self._reader.keying, context, mask.words)

    def _spoken(self, sequence: int) -> Iterator[tuple[int, set[str]]]:
        for place, context in enumerate(self._contexts[sequence]):
            yield place, set(_words(self._reader.text(context)))


def _words(text: TokenText) -> tuple[str, ...]:
    return tuple(word.text for word in text.words)
