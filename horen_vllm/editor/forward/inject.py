"""Injection: an entry's values written to the edit site's output while a batch runs (architecture.md, *Inject*).

Shapes: B contexts, S padded length, n stored rows, H width of the site's output.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from horen_vllm.core.values import value_index
from horen_vllm.editor.forward.batch import AnswerBatch
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.training.adaptor import ValueLayout, added, beneath


@contextmanager
def inject_values(
    editable: EditableModel, batch: AnswerBatch, values: torch.Tensor, layout: ValueLayout
) -> Iterator[None]:
    """Write a value to the site's output at the answer positions of `batch` inside the block.

    Positions without a value keep their exact bits.

    Parameters
    ----------
    editable
        The base model.
    batch
        The batch that runs inside the block.
    values
        [n, H] float32, stored as `layout` says.
    layout
        Where they go.
    """
    index_BS = value_index(batch.offsets, layout.chunk, layout.span)
    stored_1nH = values.to(batch.input_ids.device)[None]
    owner_B = torch.zeros(len(index_BS), dtype=torch.int64, device=index_BS.device)

    def write(_module: nn.Module, _args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        # A choice, never "+ 0": adding zero would turn -0.0 into 0.0 where nothing is written.
        written = beneath(layout, index_BS, output) + added(stored_1nH, owner_B, index_BS, output, layout.rank)
        return torch.where((index_BS >= 0)[..., None], written, output)

    handle = editable.module.register_forward_hook(write)
    try:
        yield
    finally:
        handle.remove()
