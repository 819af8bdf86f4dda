"""Keying: from averaged site inputs and words to the queries and keys of a codebook's routing space.

Applies `core.routing` as the server does; does not run the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from horen_vllm.core.euclid import lifted_key, lifted_query
from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.query import query_window
from horen_vllm.core.routing import RoutingSpace, joined_queries, unit_queries, word_vector


@dataclass(frozen=True, slots=True)
class Keying:
    """How a codebook makes queries.

    Attributes
    ----------
    parameters
        The codebook's.
    space
        Its fitted space; None for the identity.
    """

    parameters: MethodParameters
    space: RoutingSpace | None = None

    @property
    def reads_text(self) -> bool:
        """Whether contexts must know their words."""
        return self.parameters.anchors or self.reads_words

    @property
    def reads_words(self) -> bool:
        """Whether words have a part in queries."""
        return self.space is not None and self.space.reads_words

    def width(self, d_in: int) -> int:
        """Return the width of a key, for site inputs of width `d_in`."""
        if self.parameters.radius is not None:
            return d_in + 2
        return d_in if self.space is None else self.space.width

    def queries(self, means_ND: torch.Tensor, words: Sequence[Sequence[str]]) -> torch.Tensor:
        """Return queries [N, W] float32 on the CPU.

        Parameters
        ----------
        means_ND
            [N, D] float32, averaged site inputs of each context.
        words
            Each context's words; read where the space reads them.
        """
        means_ND = means_ND.cpu()
        if self.parameters.radius is not None:
            return lifted_query(means_ND)
        dense = unit_queries(means_ND, torch.ones(len(means_ND)), self.space)
        if self.space is None or not self.space.reads_words or not len(means_ND):
            return dense if len(means_ND) else dense.new_empty(0, self.width(means_ND.shape[1]))
        said = torch.stack([word_vector(each, self.space) for each in words])
        return joined_queries(dense, said, self.space.word_share)

    def keys(self, queries_NW: torch.Tensor) -> torch.Tensor:
        """Return the keys [N, W] that are stored for contexts with these queries."""
        return lifted_key(queries_NW[:, :-2]) if self.parameters.radius is not None else queries_NW

    def window(self, span: tuple[int, int]) -> tuple[int, int]:
        """Return the prompt positions that are averaged of a query span."""
        first, stop = query_window(span[1] - span[0], self.parameters.window_ratio)
        return span[0] + first, span[0] + stop
