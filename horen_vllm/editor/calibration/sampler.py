"""The sampler: runs the model on background prompts, once for each way to average.

What is fitted or compared on a sample afterwards costs no further pass.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch

from horen_vllm.artifact import KeyContext
from horen_vllm.core.anchors import Anchor
from horen_vllm.core.presets import MethodParameters, SpanMode
from horen_vllm.editor.calibration.samples import Sample, subject_anchors
from horen_vllm.editor.contexts import EditContext, prompt_forms
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.passes import context_means
from horen_vllm.editor.spoken import Reader
from horen_vllm.errors import HorenError

_MEMORY_BYTES: Final = 64 * 2**20
"""For averages, where the caller sets no limit."""

Subjects = Sequence[str | None]


class Sampler:
    """Makes samples of texts; a text that the model cannot take in some form is left out in all of them.

    Parameters
    ----------
    editable
        The base model.
    memory
        Bounds what is computed at once.
    """

    def __init__(self, editable: EditableModel, memory: MemoryLimit | None = None) -> None:
        self.editable = editable
        self._memory = memory or MemoryLimit(_MEMORY_BYTES, editable.ranks)
        self._kept: dict[tuple[tuple[str, ...], SpanMode, float, bool], Sample] = {}

    def sample(self, texts: Sequence[str], parameters: MethodParameters) -> Sample:
        """Return texts without any mask; parameters that average alike share one sample.

        Parameters
        ----------
        parameters
            Query span, window ratio, and whether there are chats.
        """
        name = (tuple(texts), parameters.span, parameters.window_ratio, parameters.chat)
        if name not in self._kept:
            self._kept[name] = self._sampled(texts, [None] * len(texts), parameters)
        return self._kept[name]

    def masked(self, texts: Sequence[str], subjects: Subjects, parameters: MethodParameters) -> Sample:
        """Return texts, each with its subject's tokens and words masked as `parameters.mask_subject` says."""
        return self._sampled(texts, subjects, parameters)

    def reader(self, keying: Keying) -> Reader:
        """Return a reader of contexts."""
        # Words are wanted whatever the space: it may be fitted on this very sample.
        return Reader(self.editable.tokenizer, keying, always=True)

    def means(self, contexts: Sequence[KeyContext], parameters: MethodParameters) -> torch.Tensor:
        """Return the averaged site inputs of contexts, [contexts, D]."""
        return context_means(self.editable, contexts, parameters, self._memory)

    def _sampled(self, texts: Sequence[str], subjects: Subjects, parameters: MethodParameters) -> Sample:
        reader = self.reader(Keying(parameters))
        contexts: list[EditContext] = []
        numbers: list[int] = []
        for number, (text, subject) in enumerate(zip(texts, subjects, strict=True)):
            forms = tuple(self._forms(reader, text, parameters, subject_anchors(subject)))
            contexts += forms
            numbers += [number] * len(forms)
        means = self.means([context.as_key_context() for context in contexts], parameters)
        return Sample(tuple(contexts), torch.tensor(numbers, dtype=torch.int64), means)

    def _forms(
        self, reader: Reader, text: str, parameters: MethodParameters, anchors: tuple[Anchor, ...]
    ) -> Iterator[EditContext]:
        try:
            forms = prompt_forms(self.editable, text, parameters)
            yield from [reader.spoken(context, anchors) for context in (forms if parameters.chat else forms[:1])]
        except HorenError:
            return
