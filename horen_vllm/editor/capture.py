"""Capture: what goes into and comes out of the edit site during a forward pass, and the queries made of it.

Shapes: B prompts, S tokens, T window tokens, D width of the site's input, H width of its output.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.query import query_window
from horen_vllm.core.routing import unit_query
from horen_vllm.editor.contexts import EditContext
from horen_vllm.editor.model import EditableModel


@contextmanager
def capture_site_inputs(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the site's input [B, S, D] of every forward pass inside the block, oldest first."""
    captured: list[torch.Tensor] = []

    def keep(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        captured.append(args[0].detach())

    handle = module.register_forward_pre_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()


@contextmanager
def capture_site_outputs(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the site's output [B, S, H] of every forward pass inside the block, oldest first."""
    captured: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        captured.append(output.detach())

    handle = module.register_forward_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()


def queries(editable: EditableModel, contexts: Sequence[EditContext], parameters: MethodParameters) -> torch.Tensor:
    """Return the unit query of each context, [len(contexts), d_in] float32 on the CPU (section 2.2).

    One prompt a pass: a query cannot depend on its neighbours, so the same prompt always gives the same bits.

    Parameters
    ----------
    editable
        The base model.
    contexts
        Prompts without any answer, made with the same `parameters`.
    parameters
        Give the window's ratio.
    """
    rows = [_query(editable, context, parameters.window_ratio) for context in contexts]
    return torch.stack(rows) if rows else torch.empty(0, editable.d_in)


@torch.no_grad()
def _query(editable: EditableModel, context: EditContext, ratio: float) -> torch.Tensor:
    input_ids = torch.tensor([list(context.prompt_ids)], device=editable.device)
    with capture_site_inputs(editable.module) as captured:
        editable.model(input_ids=input_ids, use_cache=False, logits_to_keep=1)
    first, last = context.span
    start, stop = query_window(last - first, ratio)
    return unit_query(captured[0][0, first + start : first + stop]).cpu()
