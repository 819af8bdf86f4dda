"""Value adaptors: what a value makes of the edit site's output, for many edits at once (section 2.4, appendix G.3).

Shapes: E edits, n stored rows, R rows of a batch, L answer positions, H width of the site's output, r LoRA rank.
"""

import hashlib
from dataclasses import dataclass

import torch

from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.core.values import value_chunk, value_index, value_rows, value_span


@dataclass(frozen=True, slots=True)
class ValueLayout:
    """How one edit's value is stored and where it is written."""

    span: int
    """Answer positions that are written."""
    chunk: int
    """Answer positions that share one vector."""
    rank: int
    """LoRA rank; 0 for direct vectors."""
    replaces: bool = False
    """Whether the vector stands in for the site's output and is not added to it (GRACE)."""

    @property
    def key(self) -> tuple[int, int, int]:
        """Return what two entries must share for one to use the other's value."""
        return self.span, self.chunk, self.rank

    @property
    def rows(self) -> int:
        """Stored vectors: one a chunk, or A^T and B^T."""
        return 2 * self.rank or value_rows(self.span, self.chunk)

    def index(self, num_positions: int) -> torch.Tensor:
        """Return the value row [num_positions] of each answer position, negative where nothing is written."""
        return value_index(torch.arange(num_positions), self.chunk, self.span)


def value_layout(num_target_tokens: int, parameters: MethodParameters) -> ValueLayout:
    """Return the layout of a value for a target of that many tokens."""
    span = value_span(num_target_tokens, parameters)
    replaces = parameters.value_mode is ValueMode.REPLACE
    return ValueLayout(span, value_chunk(span, parameters), parameters.rank, replaces)


def start_value(layout: ValueLayout, width: int, scale: float, name: str, parameters: MethodParameters) -> torch.Tensor:
    """Return the value [rows, width] float32 that training starts from.

    Direct vectors start at zero, or uniform in [0, 1) where the preset says so (the released code). A LoRA value
    starts with a random A and B = 0, so it adds nothing, too.

    Parameters
    ----------
    layout
        Of the value.
    width
        H.
    scale
        Root mean square of the site's output where the value is written; a LoRA value's products start near 1.
    name
        What the random numbers are derived from: the same for the same edit, whatever else is trained with it.
    parameters
        Of the codebook.
    """
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")
    generator = torch.Generator().manual_seed(seed)
    if layout.rank:
        down = torch.randn(layout.rank, width, generator=generator) / (max(scale, 1e-6) * width**0.5)
        return torch.cat([down, torch.zeros_like(down)])
    if parameters.uniform_start:
        return torch.rand(layout.rows, width, generator=generator)
    return torch.zeros(layout.rows, width)


def row_rates(layout: ValueLayout, width: int, scale: float, parameters: MethodParameters) -> torch.Tensor:
    """Return the learning rate [rows, 1] of each stored row; `scale` as in `start_value`."""
    relative = scale if parameters.scale_learning_rate else 1.0
    rates = torch.full((layout.rows, 1), parameters.learning_rate * relative)
    if layout.rank and parameters.scale_learning_rate:
        # A's entries are about 1 / (scale sqrt(width)); r products, each near 1, share the work of one vector.
        rates[: layout.rank] = 0.5 * parameters.learning_rate / (max(scale, 1e-6) * width**0.5)
        rates[layout.rank :] *= 0.5 / layout.rank**1.5
    return rates


def beneath(layout: ValueLayout, index_RL: torch.Tensor, outputs_RLH: torch.Tensor) -> torch.Tensor:
    """Return what a value is added to [R, L, H]: the site's own output, or zero where the value replaces it."""
    if not layout.replaces:
        return outputs_RLH
    return torch.where((index_RL >= 0)[..., None], 0.0, outputs_RLH)


def added(
    values_EnH: torch.Tensor, edits_R: torch.Tensor, index_RL: torch.Tensor, outputs_RLH: torch.Tensor, rank: int
) -> torch.Tensor:
    """Return what is added to the site's output [R, L, H], or to zero (`beneath`), in the output's dtype.

    Parameters
    ----------
    values_EnH
        Stored rows of every edit, float32.
    edits_R
        The edit of each batch row.
    index_RL
        Value row of each position; negative: nothing is added.
    outputs_RLH
        The site's own output.
    rank
        LoRA rank; 0 for direct vectors.
    """
    if rank:
        factors = values_EnH[edits_R]
        down, up = factors[:, :rank], factors[:, rank : 2 * rank]
        written = outputs_RLH.float() @ down.transpose(1, 2) @ up
    else:
        written = values_EnH[edits_R[:, None], index_RL.clamp(min=0)]
    return torch.where((index_RL >= 0)[..., None], written, 0.0).to(outputs_RLH.dtype)
