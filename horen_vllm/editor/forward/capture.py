"""Capture: what goes into and comes out of a module during a forward pass.

Shapes: B prompts, S tokens, D width of the module's input, H width of its output.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def captured_inputs(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the module's input [B, S, D] of every forward pass inside the block, oldest first."""
    captured: list[torch.Tensor] = []

    def keep(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        captured.append(args[0].detach())

    handle = module.register_forward_pre_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()


@contextmanager
def captured_outputs(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the module's output [B, S, H] of every forward pass inside the block, oldest first."""
    captured: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        captured.append(output.detach())

    handle = module.register_forward_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()
