"""Values: at which answer positions of a request which vector of its entry is added (architecture.md, *Inject*).

Answer position ``j = position - (P - 1)``; ``j = 0`` is the prompt's last token.
"""

import torch

from horen_vllm.core.presets import MethodParameters, ValueMode

NO_VALUE = -1
"""Row index that stands for "leave this position alone"."""


def value_span(num_target_tokens: int, parameters: MethodParameters) -> int:
    """Return the number of answer positions that an entry writes.

    Position j predicts target token j; one more position predicts the end when the preset trains it.
    """
    if parameters.value_mode is ValueMode.LAST:
        return 1
    return num_target_tokens + (1 if parameters.train_end else 0)


def value_rows(mode: ValueMode, span: int) -> int:
    """Return how many vectors an entry stores: one a position for `sequence`, else one."""
    return span if mode is ValueMode.SEQUENCE else 1


def value_stride(mode: ValueMode) -> int:
    """Return the step from one answer position's vector to the next: 1 for `sequence`, 0 for a single vector."""
    return 1 if mode is ValueMode.SEQUENCE else 0


def value_index(offsets: torch.Tensor, mode: ValueMode, span: int) -> torch.Tensor:
    """Return the value row for each answer position, `NO_VALUE` outside the span.

    Parameters
    ----------
    offsets
        [...] int64 answer positions j; negative ones lie in the prompt.
    mode, span
        The entry's value mode and its number of written positions.
    """
    inside = (offsets >= 0) & (offsets < span)
    return torch.where(inside, offsets * value_stride(mode), NO_VALUE)
