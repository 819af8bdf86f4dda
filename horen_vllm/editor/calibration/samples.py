"""Samples: background prompts in every form, with the averaged site inputs that their queries are made of.

Shapes: N contexts, D width of the site's input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from horen_vllm.core.anchors import Anchor, anchor_of
from horen_vllm.editor.calibration.background import BackgroundPrompt
from horen_vllm.editor.contexts import EditContext
from horen_vllm.editor.keying import Keying
from horen_vllm.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Sample:
    """Texts in all their forms, ready to become queries of any routing space.

    Attributes
    ----------
    contexts
        N contexts; the forms of a text stand together.
    texts
        [N] int64, number of the text that each context is a form of.
    means
        [N, D] float32, averaged site inputs, with the contexts' masks left out.
    """

    contexts: tuple[EditContext, ...]
    texts: torch.Tensor
    means: torch.Tensor

    def queries(self, keying: Keying) -> torch.Tensor:
        """Return the queries [N, W] of a routing space."""
        return keying.queries(self.means, [context.words for context in self.contexts])

    def where(self, rows: torch.Tensor) -> "Sample":
        """Return the contexts whose place in `rows` [N] is True; texts keep their numbers."""
        picked = rows.nonzero()[:, 0]
        return Sample(tuple(self.contexts[row] for row in picked.tolist()), self.texts[picked], self.means[picked])


def split(prompts: Sequence[BackgroundPrompt], shares: Sequence[float], seed: int) -> list[list[BackgroundPrompt]]:
    """Return disjoint parts of the prompts, drawn at random, with these shares of them."""
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
    edges = [round(sum(shares[:count]) * len(order)) for count in range(len(shares) + 1)]
    return [[prompts[at] for at in order[first:stop]] for first, stop in pairwise(edges)]


def subject_anchors(subject: str | None) -> tuple[Anchor, ...]:
    """Return the anchors of a background prompt's subject; none where it has no subject that can be looked for."""
    try:
        return () if subject is None else (anchor_of(subject),)
    except InvalidArgument:
        return ()
