"""The tail of the model: what comes after the edit site, run on answer positions only.

A value is added at the edit site and nowhere before an answer position, so everything up to the site, and the keys
and values that later layers attend to in the prompt, stay what one clean pass gave (`editor.forward.clean`).
Shapes: R rows, L answer positions, P prefix length, H width of the site's output, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache

from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.errors import FailedPrecondition

IGNORED: Final = -100
"""Label of a position that is only padding."""
_ATTENTION: Final = "self_attn.o_proj"
_LENGTH_DEPENDENT: Final = frozenset({"dynamic", "longrope"})
"""Types of rotary embeddings whose frequencies follow from the longest row of a batch."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """What the layers after the site attend to in front of the answer positions, one pair a layer.

    Each tensor is [kv_heads, P, head_dim], keys with their rotary embedding applied.
    """

    pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    length: int


@dataclass(frozen=True, slots=True)
class Tail:
    """The modules after the edit site."""

    site_layer: Any
    """Decoder layer that holds the site."""
    after_attention: bool
    """Whether the site is the attention's output, so that the layer's feed-forward part is still to come."""
    layers: tuple[nn.Module, ...]
    """The decoder layers after `site_layer`."""
    windows: tuple[int | None, ...]
    """Sliding window of each of `layers`, in tokens; None: it attends to everything."""
    first_layer: int
    """Index of the first of `layers` in the model."""
    decoder: Any
    norm: nn.Module
    head: nn.Module
    rotary: nn.Module

    @property
    def residual_norm(self) -> nn.Module:
        """The norm whose input is the residual stream that the site's output is added to."""
        norm: nn.Module = (
            self.site_layer.input_layernorm if self.after_attention else self.site_layer.post_attention_layernorm
        )
        return norm


@dataclass(frozen=True, slots=True)
class TailBatch:
    """Rows at the edit site, padded to common lengths: prefixes on the left, answers on the right."""

    residual: torch.Tensor
    """[R, L, H]: the residual stream beside the site."""
    site_output: torch.Tensor
    """[R, L, H]: the site's clean output."""
    labels: torch.Tensor
    """[R, L] int64, `IGNORED` where a row has ended."""
    positions: torch.Tensor
    """[R, L] int64, in the row's own token sequence."""
    prefix: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """[R, kv_heads, P, head_dim] keys and values of each layer."""
    masks: dict[int | None, torch.Tensor]
    """[R, 1, L, P + L] additive, by sliding window."""


def tail_of(editable: EditableModel) -> Tail:
    """Return the modules after the model's edit site.

    Raises
    ------
    FailedPrecondition
        ``unsupported_site``, when the site is not a decoder layer's ``mlp.down_proj`` or ``self_attn.o_proj``;
        ``unsupported_architecture``, when the rotary embedding depends on the longest row of a batch.
    """
    # Any: the library leaves the modules of a model without usable annotations.
    model: Any = editable.model
    decoder = model.get_decoder()
    owner, _, linear = editable.site.partition(".layers.")[2].partition(".")
    if not owner.isdigit() or linear not in {"mlp.down_proj", _ATTENTION}:
        message = f"{editable.site} is not the mlp.down_proj or self_attn.o_proj of a decoder layer."
        raise FailedPrecondition(message, code="unsupported_site")
    if getattr(decoder.rotary_emb, "rope_type", None) in _LENGTH_DEPENDENT:
        message = f"rotary embeddings of type {decoder.rotary_emb.rope_type!r} depend on what else is in a batch."
        raise FailedPrecondition(message, code="unsupported_architecture")
    index = int(owner)
    layers = tuple(decoder.layers)[index + 1 :]
    return Tail(
        site_layer=decoder.layers[index],
        after_attention=linear == _ATTENTION,
        layers=layers,
        windows=tuple(_window(editable, layer) for layer in layers),
        first_layer=index + 1,
        decoder=decoder,
        norm=decoder.norm,
        head=model.get_output_embeddings(),
        rotary=decoder.rotary_emb,
    )


def stack_rows(
    tail: Tail,
    residuals: Sequence[torch.Tensor],
    site_outputs: Sequence[torch.Tensor],
    labels: Sequence[torch.Tensor],
    prefixes: Sequence[Prefix],
) -> TailBatch:
    """Return rows of different lengths as one batch; the arguments run over rows."""
    label_RL = nn.utils.rnn.pad_sequence(list(labels), batch_first=True, padding_value=IGNORED)
    starts_R1 = torch.tensor([[prefix.length] for prefix in prefixes], device=label_RL.device)
    positions_RL = starts_R1 + torch.arange(label_RL.shape[1], device=label_RL.device)
    longest = int(starts_R1.max())
    residual_RLH = nn.utils.rnn.pad_sequence(list(residuals), batch_first=True)
    return TailBatch(
        residual=residual_RLH,
        site_output=nn.utils.rnn.pad_sequence(list(site_outputs), batch_first=True),
        labels=label_RL,
        positions=positions_RL,
        prefix=tuple(
            (
                torch.stack([_left_padded(prefix.pairs[layer][0], longest) for prefix in prefixes]),
                torch.stack([_left_padded(prefix.pairs[layer][1], longest) for prefix in prefixes]),
            )
            for layer in range(len(tail.layers))
        ),
        masks={
            window: _mask(positions_RL, starts_R1, longest, window, residual_RLH.dtype) for window in set(tail.windows)
        },
    )


def tail_logits(tail: Tail, batch: TailBatch, added_RLH: torch.Tensor) -> torch.Tensor:
    """Return the logits [n, V], float32 at least, of the n positions that have a label, row by row.

    Parameters
    ----------
    tail
        The modules after the site.
    batch
        The rows.
    added_RLH
        What is added to the site's output, in the model's dtype; gradients flow through it.
    """
    # The same order of sums as in the model: first the site's own output, then the residual.
    hidden = batch.residual + (batch.site_output + added_RLH)
    if tail.after_attention:
        hidden = hidden + _first(tail.site_layer.mlp(tail.site_layer.post_attention_layernorm(hidden)))
    rotary = tail.rotary(hidden, position_ids=batch.positions)
    for number, (layer, window) in enumerate(zip(tail.layers, tail.windows, strict=True)):
        hidden = _first(
            layer(
                hidden,
                attention_mask=batch.masks[window],
                position_ids=batch.positions,
                position_embeddings=rotary,
                past_key_values=_PrefixCache(batch.prefix[number]),
            )
        )
    logits: torch.Tensor = tail.head(tail.norm(hidden[batch.labels != IGNORED]))
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _PrefixCache(DynamicCache):
    """Hands one layer the prefix in front of the new keys and values, and keeps nothing."""

    def __init__(self, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
        super().__init__()
        self._pair = pair

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return prefix and new states in one."""
        del layer_idx
        keys, values = self._pair
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)


def _window(editable: EditableModel, layer: Any) -> int | None:
    # Any: the library leaves the attributes of configurations and layers without annotations.
    config: Any = editable.model.config.get_text_config()
    # A window in the configuration means nothing to a model whose code knows none (Llama, Gemma); where only some
    # layers have one, their attention says so.
    owner = config if config.model_type == "mistral" else layer.self_attn
    window: int | None = getattr(owner, "sliding_window", None)
    return window


def _left_padded(states: torch.Tensor, length: int) -> torch.Tensor:
    return F.pad(states, (0, 0, length - states.shape[1], 0))


def _mask(
    positions_RL: torch.Tensor, starts_R1: torch.Tensor, longest: int, window: int | None, dtype: torch.dtype
) -> torch.Tensor:
    prefix_RP = torch.arange(longest, device=positions_RL.device) - (longest - starts_R1)
    keys_RK = torch.cat([prefix_RP, positions_RL], dim=1)
    distance_RLK = positions_RL[:, :, None] - keys_RK[:, None, :]
    seen = (distance_RLK >= 0) & (keys_RK >= 0)[:, None, :]
    if window is not None:
        seen &= distance_RLK < window
    blocked = torch.zeros_like(distance_RLK, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return blocked[:, None]


def _first(output: Any) -> torch.Tensor:
    """Return the hidden states of a module that may give more than them (mixtures of experts)."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
