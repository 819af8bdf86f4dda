"""Injection: an entry's values added to the edit site's output while a batch runs (architecture.md, *Inject*).

Shapes: B contexts, S padded length, R value rows, H width of the site's output.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from horen_vllm.core.presets import ValueMode
from horen_vllm.core.values import value_index
from horen_vllm.editor.batch import AnswerBatch
from horen_vllm.editor.model import EditableModel


@contextmanager
def inject_values(
    editable: EditableModel, batch: AnswerBatch, values: torch.Tensor, *, mode: ValueMode, span: int
) -> Iterator[None]:
    """Add values to the site's output at the answer positions of `batch` inside the block.

    Positions without a value keep their exact bits. Gradients flow to `values` where grad mode is on.

    Parameters
    ----------
    editable
        The base model.
    batch
        The batch that runs inside the block.
    values
        [R, H] float32, one row for each written position (`sequence`) or a single row.
    mode, span
        Where the rows go (`core.values.value_index`).
    """
    rows_BS = value_index(batch.offsets, mode, span)
    written_BS1 = (rows_BS >= 0)[..., None]
    rows_BS = rows_BS.clamp(min=0)
    values = values.to(batch.input_ids.device)

    def add(_module: nn.Module, _args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        # A choice, never "+ 0": adding zero would turn -0.0 into 0.0 where nothing is written.
        return torch.where(written_BS1, output + values[rows_BS].to(output.dtype), output)

    handle = editable.module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
