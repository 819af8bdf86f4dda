"""Samples: background prompts in every form, with the averaged site inputs that their queries are made of.

Runs the model once for each way to average; what is fitted on them afterwards costs no further pass.
Shapes: N contexts, D width of the site's input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch

from horen_vllm.core.anchors import Anchor, anchor_of
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.calibration.background import BackgroundPrompt
from horen_vllm.editor.contexts import EditContext, prompt_forms
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.passes import context_means
from horen_vllm.editor.spoken import Reader
from horen_vllm.errors import HorenError, InvalidArgument

_MEAN_BYTES: Final = 64 * 2**20


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


def sampled(
    editable: EditableModel,
    texts: Sequence[str],
    parameters: MethodParameters,
    subjects: Sequence[str | None] | None = None,
    memory: MemoryLimit | None = None,
) -> Sample:
    """Return a sample of texts; one that the model cannot take in some form is left out in all of them.

    Parameters
    ----------
    parameters
        Query span, window ratio, and whether chats and masks exist.
    subjects
        Subject of each text; where one is given, its tokens and words are masked as `parameters.mask_subject` says.
    """
    # Words are wanted whatever the space: it may be fitted on this very sample.
    reader = Reader(editable.tokenizer, Keying(parameters), always=True)
    contexts: list[EditContext] = []
    numbers: list[int] = []
    for number, text in enumerate(texts):
        anchors = subject_anchors(subjects[number]) if subjects is not None else ()
        forms = _forms(editable, reader, text, parameters, anchors)
        contexts += forms
        numbers += [number] * len(forms)
    if texts and not contexts:
        message = "the model cannot take a single background prompt: its tokenizer or its chat template is at fault."
        raise InvalidArgument(message, code="too_few_background_prompts")
    keyed = [context.as_key_context() for context in contexts]
    found = context_means(editable, keyed, parameters, memory or mean_memory(editable))
    return Sample(tuple(contexts), torch.tensor(numbers, dtype=torch.int64), found)


def mean_memory(editable: EditableModel) -> MemoryLimit:
    """Return a limit for averages alone."""
    return MemoryLimit(_MEAN_BYTES, editable.ranks)


def _forms(
    editable: EditableModel, reader: Reader, text: str, parameters: MethodParameters, anchors: tuple[Anchor, ...]
) -> list[EditContext]:
    try:
        forms = prompt_forms(editable, text, parameters)
        return [reader.spoken(context, anchors) for context in (forms if parameters.chat else forms[:1])]
    except HorenError:
        return []


def subject_anchors(subject: str | None) -> tuple[Anchor, ...]:
    """Return the anchors of a background prompt's subject; none where it has no subject that can be looked for."""
    try:
        return () if subject is None else (anchor_of(subject),)
    except InvalidArgument:
        return ()
