"""Routing through a static codebook on the host, one prompt at a time.

Applies `core` as the engine does, without its pages, kernels and batches. Shapes: P prompt tokens, D width of the
site's input, W width of a query.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from horen_vllm.artifact import EntryArtifact
from horen_vllm.core.anchors import AnchorTable
from horen_vllm.core.euclid import distances
from horen_vllm.core.masks import SubjectMask, TokenRange, no_mask, shared_queries, subject_masks
from horen_vllm.core.match import KeyTable, decide_tensors, entry_scores
from horen_vllm.core.presets import ValueMode
from horen_vllm.core.query import query_window
from horen_vllm.core.routing import joined_queries, unit_queries, word_vector
from horen_vllm.pieces import token_text
from horen_vllm.static import StaticCodebook

_NEVER: Final = -math.inf


@dataclass(frozen=True, slots=True)
class Routing:
    """What was decided for a prompt.

    Attributes
    ----------
    entry
        The entry that fires; None when none does.
    score
        Best score of the group of entries that decided; None when nothing competed.
    """

    entry: EntryArtifact | None = None
    score: float | None = None

    def written(self, output_D: torch.Tensor, offset: int) -> torch.Tensor:
        """Return the site's output [D] at answer position `offset` as the entry writes it."""
        if self.entry is None or not 0 <= offset < self.entry.manifest.span:
            return output_D
        values, made = self.entry.values.to(output_D.dtype), self.entry.manifest
        if made.value_mode is ValueMode.REPLACE:
            return values[0]
        if made.rank:
            return output_D + (values[: made.rank] @ output_D) @ values[made.rank :]
        return output_D + values[offset // made.chunk]


@dataclass(frozen=True, slots=True)
class _Rivals:
    """Entries that compete with one query: their indices in the codebook, and the keys that they own."""

    entries: tuple[int, ...]
    table: KeyTable


@dataclass(frozen=True, slots=True)
class _Contest:
    """The best of some entries, and what its score has to exceed."""

    score: float = _NEVER
    threshold: float = 0.0
    entry: int | None = None

    @property
    def margin(self) -> float:
        return self.score - self.threshold

    @property
    def fires(self) -> bool:
        return self.score > self.threshold


class OfflineCodebook:
    """A static codebook, ready to route prompts.

    Parameters
    ----------
    codebook
        As `static.read_static` gives it.
    tokenizer
        The base model's, of transformers; read where the codebook looks for subjects or words.
    """

    def __init__(self, codebook: StaticCodebook, tokenizer: Any) -> None:
        self.parameters = codebook.parameters
        self.revision = codebook.revision
        self._space = codebook.space
        self._tokenizer = tokenizer
        self._sequences = [sequence for sequence, _, _ in codebook.entries]
        self._entries = [entry for _, _, entry in codebook.entries]
        anchored = {
            index: [tuple(name.split(" ")) for name in entry.manifest.anchors]
            for index, entry in enumerate(self._entries)
            if entry.manifest.anchors and self.parameters.anchors and self.parameters.radius is None
        }
        self._names = AnchorTable(anchored)
        self._open = self._rivals([index for index in range(len(self._entries)) if index not in anchored])
        self._radii = _radii(self.parameters.radius, self._entries)

    def route(self, inputs_PD: torch.Tensor, prompt_ids: Sequence[int], span: TokenRange) -> Routing:
        """Decide for a prompt.

        Parameters
        ----------
        inputs_PD
            [P, D] float32, the site's inputs of a clean pass over the prompt.
        prompt_ids
            The prompt's token ids.
        span
            The query span.

        Raises
        ------
        FailedPrecondition
            ``unsupported_tokenizer``, when words or subjects are to be read and the tokenizer is not a fast one.
        """
        first, stop = query_window(span[1] - span[0], self.parameters.window_ratio)
        window = (span[0] + first, span[0] + stop)
        if self.parameters.radius is not None:
            return self._routing(self._nearest(inputs_PD[slice(*window)].mean(0)))
        whole, apart = self._masks(prompt_ids, span, window)
        of_open = self._contest([(self._query(inputs_PD, window, whole), self._open)], self.parameters.threshold)
        asks = [(self._query(inputs_PD, window, mask), self._rivals(entries)) for mask, entries in apart]
        anchored = self._contest(asks, self.parameters.anchored_threshold)
        # An anchored entry that fires goes before any other; where none does, the one that came nearer is told.
        takes = anchored.fires or (not of_open.fires and anchored.margin > of_open.margin)
        return self._routing(anchored if takes else of_open)

    def _routing(self, contest: _Contest) -> Routing:
        if contest.entry is None or contest.score == _NEVER:
            return Routing()
        return Routing(self._entries[contest.entry] if contest.fires else None, contest.score)

    def _masks(
        self, prompt_ids: Sequence[int], span: TokenRange, window: TokenRange
    ) -> tuple[SubjectMask, Sequence[tuple[SubjectMask, tuple[int, ...]]]]:
        """Return what the whole query is made of, and that of each query with the anchored entries that it is for."""
        reads_words = self._space is not None and self._space.reads_words
        if not reads_words and not len(self._names):
            return SubjectMask((), ()), ()
        text = token_text(self._tokenizer, prompt_ids, span)
        whole = no_mask(text)
        places = self._names.find(whole.words)
        masks = dict.fromkeys(places, whole)
        if self.parameters.mask_subject:
            masks = subject_masks(text, window, places, words=reads_words)
        return whole, shared_queries(masks).queries

    def _query(self, inputs_PD: torch.Tensor, window: TokenRange, mask: SubjectMask) -> torch.Tensor:
        kept = torch.zeros(len(inputs_PD), dtype=torch.bool)
        kept[slice(*window)] = True
        for first, stop in mask.tokens:
            kept[first:stop] = False
        rows = inputs_PD[kept]
        dense = unit_queries(rows.sum(0, keepdim=True), torch.tensor([len(rows)]), self._space)
        if self._space is None or not self._space.reads_words:
            return dense
        return joined_queries(dense, word_vector(mask.words, self._space)[None], self._space.word_share)

    def _rivals(self, entries: Sequence[int]) -> _Rivals:
        # Of identical keys the newest edit's counts.
        owned: dict[bytes, tuple[torch.Tensor, int]] = {}
        for number, index in sorted(enumerate(entries), key=lambda pair: self._sequences[pair[1]]):
            owned.update({key.numpy().tobytes(): (key, number) for key in self._entries[index].keys})
        table = KeyTable(
            keys=torch.stack([key for key, _ in owned.values()]) if owned else torch.empty(0, 0),
            owners=torch.tensor([number for _, number in owned.values()], dtype=torch.int64),
            sequences=torch.tensor([self._sequences[index] for index in entries], dtype=torch.int64),
        )
        return _Rivals(tuple(entries), table)

    def _contest(self, asks: Sequence[tuple[torch.Tensor, _Rivals]], bound: float) -> _Contest:
        """Return the best entry of those that compete, each with the query that it is for."""
        best: list[tuple[float, int, int]] = []
        for query, rivals in asks:
            if not len(rivals.table.keys):
                continue
            routed = decide_tensors(
                entry_scores(query, rivals.table, self.parameters), rivals.table.sequences, self.parameters.threshold
            )
            index = rivals.entries[int(routed.best)]
            best.append((float(routed.score), self._sequences[index], index))
        if not best:
            return _Contest(threshold=bound)
        score, _, index = max(best)
        floor = self._entries[index].manifest.floor
        return _Contest(score, bound if floor is None else max(bound, floor), index)

    def _nearest(self, query_D: torch.Tensor) -> _Contest:
        table = self._open.table
        if not len(table.keys):
            return _Contest()
        scores_N = -distances(query_D[None], table.keys)
        scores_E = scores_N.new_full((1, len(table.sequences)), _NEVER)
        scores_E.scatter_reduce_(1, table.owners[None], scores_N, reduce="amax")
        routed = decide_tensors(scores_E, table.sequences, _NEVER)
        index = int(routed.best)
        return _Contest(float(routed.score), -self._radii[index], index)


def _radii(first: float | None, entries: Sequence[EntryArtifact]) -> list[float]:
    """Return each entry's radius (GRACE), which ends at every split that another entry names for it."""
    if first is None:
        return []
    radii = {
        entry.manifest.edit_id: first if entry.manifest.radius is None else entry.manifest.radius for entry in entries
    }
    for entry in entries:
        for edit_id, radius in entry.manifest.splits:
            radii[edit_id] = min(radii.get(edit_id, radius), radius)
    return [radii[entry.manifest.edit_id] for entry in entries]
