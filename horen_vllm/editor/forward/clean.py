"""The clean pass: one forward pass of prompts and their answers without any value.

It gives what queries are made of, and everything that stays the same while values are trained (`editor.forward.tail`).
Shapes: R rows, S padded length, L answer positions, D width of the site's input, H width of its output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from transformers import DynamicCache

from horen_vllm.artifact import KeyContext
from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.query import query_window
from horen_vllm.editor.contexts import EditContext
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.forward.capture import captured_inputs, captured_outputs
from horen_vllm.editor.forward.tail import Prefix, Tail, TailBatch, stack_rows, tail_of
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.loading.ranks import Ranks
from horen_vllm.editor.memory import MemoryLimit

_PADDING: Final = 0
"""Any token will do: the models are causal, so what stands behind a row's end cannot reach it."""
_PADDED: Final = 1.2
"""Longest row of a pass by its shortest: what is padded is computed for nothing, and a pass has its own overhead."""
_MEAN_BYTES: Final = 64 * 2**20
"""Memory for means alone, where the caller sets no limit."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A prompt and the labels that must follow it."""

    prompt_ids: tuple[int, ...]
    span: tuple[int, int]
    """Query span: half-open range of `prompt_ids`."""
    labels: tuple[int, ...] = ()
    """Token that each answer position predicts; empty where only the query is wanted."""
    masked: tuple[tuple[int, int], ...] = ()
    """Ranges of `prompt_ids` that are left out of the query window."""

    @property
    def fed(self) -> tuple[int, ...]:
        """The tokens that the model reads: the last label is only predicted."""
        return self.prompt_ids + self.labels[:-1]


@dataclass(frozen=True, slots=True)
class CleanRow:
    """What the clean pass keeps of one passage."""

    mean: torch.Tensor
    """[D] float32 on the CPU: the average of the site's inputs over the query window (section 2.2)."""
    residual: torch.Tensor
    """[L, H] in the model's dtype: the residual stream beside the site."""
    site_output: torch.Tensor
    """[L, H] in the model's dtype."""
    labels: torch.Tensor
    """[L] int64."""
    prefix: Prefix
    finite: bool
    """Whether the mean and everything else that is kept is finite."""


def passages(contexts: Sequence[EditContext | KeyContext], labels: tuple[int, ...] = ()) -> list[Passage]:
    """Return each context's prompt with the same labels behind it."""
    return [Passage(context.prompt_ids, context.span, labels, context.masked) for context in contexts]


def clean_pass(
    editable: EditableModel, rows: Sequence[Passage], parameters: MethodParameters, memory: MemoryLimit
) -> list[CleanRow | None]:
    """Return what is kept of every passage, in order; None for one that does not fit into memory alone.

    Passages of similar length share a pass; which ones do changes results by rounding only (a query by less
    than 1e-6).
    """
    tail = tail_of(editable)
    costs = [_bytes_of(editable, len(row.fed)) for row in rows]
    kept: list[CleanRow | None] = [None] * len(rows)

    def run(chunk: Sequence[int]) -> None:
        wanted = [rows[index] for index in chunk]
        for index, row in zip(chunk, _clean(editable, tail, wanted, parameters.window_ratio), strict=True):
            kept[index] = row

    memory.run(costs, run, padding=_PADDED)
    return kept


def stack_clean(tail: Tail, rows: Sequence[CleanRow]) -> TailBatch:
    """Return kept rows as one batch for the tail."""
    return stack_rows(
        tail,
        [row.residual for row in rows],
        [row.site_output for row in rows],
        [row.labels for row in rows],
        [row.prefix for row in rows],
    )


@torch.no_grad()
def _clean(editable: EditableModel, tail: Tail, rows: Sequence[Passage], ratio: float) -> list[CleanRow]:
    length = max(len(row.fed) for row in rows)
    padded = [[*row.fed, *[_PADDING] * (length - len(row.fed))] for row in rows]
    input_ids = torch.tensor(padded, device=editable.device)
    cache = _TailCache(tail.first_layer)
    site = editable.module
    with (
        captured_inputs(site) as inputs,
        captured_outputs(site) as outputs,
        captured_inputs(tail.residual_norm) as sums,
    ):
        tail.decoder(input_ids=input_ids, past_key_values=cache, use_cache=True)
    means = _means(inputs[0], rows, ratio, editable.ranks)
    captured = zip(rows, means, sums[0], outputs[0], strict=True)
    kept = [
        _kept(row, mean, residual, output, cache.of_row(number))
        for number, (row, mean, residual, output) in enumerate(captured)
    ]
    finite = torch.tensor([row.finite for row in kept])
    editable.ranks.share(finite)
    return [replace(row, finite=whole) for row, whole in zip(kept, finite.tolist(), strict=True)]


def _means(inputs_RSD: torch.Tensor, rows: Sequence[Passage], ratio: float, ranks: Ranks) -> torch.Tensor:
    weights_RS = torch.zeros(inputs_RSD.shape[:2], device=inputs_RSD.device)
    for number, row in enumerate(rows):
        first, last = row.span
        start, stop = query_window(last - first, ratio)
        weights_RS[number, first + start : first + stop] = 1.0
        for left, right in row.masked:
            weights_RS[number, left:right] = 0.0
    # Each rank has some columns of the site's input; the mean of a column is its own affair.
    sums_RD = torch.bmm(weights_RS[:, None], inputs_RSD.float())[:, 0]
    return ranks.joined(sums_RD / weights_RS.sum(dim=1, keepdim=True)).cpu()


def _kept(
    row: Passage,
    mean: torch.Tensor,
    residual_SH: torch.Tensor,
    output_SH: torch.Tensor,
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> CleanRow:
    start = len(row.prompt_ids) - 1
    stop = start + len(row.labels)
    prefix = Prefix(tuple((keys[:, :start].clone(), values[:, :start].clone()) for keys, values in pairs), start)
    residual, output = residual_SH[start:stop].clone(), output_SH[start:stop].clone()
    tensors = [mean, residual, output, *(states for pair in prefix.pairs for states in pair)]
    finite = all(bool(tensor.isfinite().all()) for tensor in tensors)
    return CleanRow(mean, residual, output, torch.tensor(row.labels, device=output.device), prefix, finite)


class _TailCache(DynamicCache):
    """Keeps the keys and values of the layers after the site, and hands none of them back."""

    def __init__(self, first_layer: int) -> None:
        super().__init__()
        self._first_layer = first_layer
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep what is wanted of a layer's new states and return them as they are."""
        if layer_idx >= self._first_layer:
            self._pairs.append((key_states, value_states))
        return key_states, value_states

    def of_row(self, row: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return keys and values [kv_heads, S, head_dim] of one row, layer by layer."""
        return [(keys[row], values[row]) for keys, values in self._pairs]


def _bytes_of(editable: EditableModel, tokens: int) -> int:
    """Return roughly what a pass over that many tokens holds at once."""
    config: Any = editable.model.config.get_text_config()
    states = config.num_hidden_layers * 2 * config.num_key_value_heads * _head_dim(config)
    widths = 4 * editable.d_in + 8 * config.hidden_size
    return int(tokens * 4 * (states + widths))


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def means(
    editable: EditableModel,
    contexts: Sequence[EditContext | KeyContext],
    parameters: MethodParameters,
    memory: MemoryLimit | None = None,
) -> torch.Tensor:
    """Return the averaged site inputs of each context's query window, [len(contexts), d_in] float32 on the CPU.

    Raises
    ------
    EditFailed
        ``out_of_memory``, when a single context does not fit.
    """
    rows = clean_pass(editable, passages(contexts), parameters, memory or MemoryLimit(_MEAN_BYTES, editable.ranks))
    if any(row is None for row in rows):
        message = "a single prompt does not fit into memory."
        raise EditFailed(message, code="out_of_memory")
    return torch.stack([row.mean for row in rows if row is not None]) if rows else torch.empty(0, editable.d_in)


def queries(
    editable: EditableModel,
    contexts: Sequence[EditContext],
    keying: Keying,
    memory: MemoryLimit | None = None,
) -> torch.Tensor:
    """Return the query of each context before refinement, [len(contexts), width] float32; raises as `means`."""
    found = means(editable, contexts, keying.parameters, memory)
    return keying.queries(found, [context.words for context in contexts])
