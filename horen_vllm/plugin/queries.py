"""Queries of a step's requests in their revision's routing space, from the sums of their site inputs.

Shapes: Q queries, D width of the site's input on this rank, W width of a query.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from horen_vllm.core.euclid import lifted_query
from horen_vllm.core.refine import Reduce
from horen_vllm.core.routing import joined_queries, unit_queries, word_vector
from horen_vllm.plugin.requests import TrackedRequest
from horen_vllm.plugin.revisions import RevisionView
from horen_vllm.plugin.slots import on_device
from horen_vllm.plugin.subjects import AnchoredQuery


@dataclass(frozen=True, slots=True)
class Ask:
    """One query of a request: the whole one, or that of some anchored entries."""

    tracked: TrackedRequest
    anchored: AnchoredQuery | None = None

    @property
    def count(self) -> int:
        """Tokens that are averaged."""
        first, stop = self.tracked.window
        masked = self.anchored.mask.tokens if self.anchored is not None else ()
        return stop - first - sum(end - begin for begin, end in masked)

    @property
    def words(self) -> tuple[str, ...]:
        """Words that the query is joined with, where its space reads them."""
        return self.tracked.subjects.words if self.anchored is None else self.anchored.mask.words


def asks_of(group: Sequence[TrackedRequest]) -> list[Ask]:
    """Return the whole queries of all requests in order, then those of their anchored entries."""
    whole = [Ask(tracked) for tracked in group]
    return whole + [Ask(tracked, query) for tracked in group for query in tracked.subjects.queries]


def make_queries(view: RevisionView, asks: Sequence[Ask], sums_QD: torch.Tensor, reduce: Reduce) -> torch.Tensor:
    """Return queries [Q, W] (float32); rows are independent.

    Parameters
    ----------
    view
        A revision in the routing space of all of them.
    asks
        What each row is.
    sums_QD
        [Q, D] float32, sums of site inputs over the tokens of each query.
    reduce
        As in `core.refine`.
    """
    device = sums_QD.device
    counts = on_device(torch.tensor([ask.count for ask in asks], dtype=torch.float32), device)
    if view.radii is not None:
        return lifted_query(sums_QD / counts[:, None])
    space = view.space.space if view.space is not None else None
    dense = unit_queries(sums_QD, counts, space, reduce)
    if space is None or not space.reads_words:
        return dense
    words = torch.stack([word_vector(ask.words, space) for ask in asks])
    return joined_queries(dense, on_device(words, device), space.word_share)
