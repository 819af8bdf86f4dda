"""Values: at which answer positions of a request which vector of its entry is added (architecture.md, *Inject*).

Answer position ``j = position - (P - 1)``; ``j = 0`` is the prompt's last token.
"""

import torch

from horen_vllm.core.presets import MethodParameters, ValueMode

NO_VALUE = -1
"""Row index that stands for "leave this position alone"."""
REPLACED = -1
"""LoRA rank that stands for a vector that replaces the output, and is not added to it (GRACE)."""


def value_span(num_target_tokens: int, parameters: MethodParameters) -> int:
    """Return the number of answer positions that an entry writes.

    Position j predicts target token j; one more position predicts the end when the preset trains it.
    """
    if parameters.value_mode in {ValueMode.LAST, ValueMode.REPLACE}:
        return 1
    return num_target_tokens + (1 if parameters.train_end else 0)


def value_chunk(span: int, parameters: MethodParameters) -> int:
    """Return how many answer positions in a row share one vector of an entry that writes `span` of them.

    The whole span for `answer`, `last` and a LoRA value; for `sequence` 1, or as many as bring a longer span down
    to `max_value_rows` vectors.
    """
    if parameters.rank or parameters.value_mode is not ValueMode.SEQUENCE:
        return span
    return -(-span // parameters.max_value_rows)


def value_rows(span: int, chunk: int) -> int:
    """Return how many vectors a span takes, `chunk` positions each; the last may have fewer."""
    return -(-span // chunk)


def value_index(offsets: torch.Tensor, chunk: int, span: int) -> torch.Tensor:
    """Return the value row for each answer position, `NO_VALUE` outside the span.

    Parameters
    ----------
    offsets
        [...] int64 answer positions j; negative ones lie in the prompt.
    chunk, span
        The entry's positions a vector (>= 1) and its number of written positions.
    """
    inside = (offsets >= 0) & (offsets < span)
    return torch.where(inside, offsets // chunk, NO_VALUE)
