"""The paper's training loop, re-implemented plainly: batch 1, every step through the whole model.

Forward through all layers and the output head, on prompt and target; backward as far as the gradient goes, which with a
frozen model is from the loss to the edit site.

What the editor's own training is measured against and tested against, so it shares neither its tail nor its batches:
values reach the site by a forward hook, and the optimiser is torch's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.contexts import EditContext
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.training.adaptor import ValueLayout, row_rates, start_value

Disturb = Callable[[int, int], torch.Tensor]


@dataclass(frozen=True, slots=True)
class PlainResult:
    """What the loop ends with."""

    values: torch.Tensor
    """[rows, d_out] float32: the best iterate, or the last one where the parameters say so."""
    losses: tuple[float, ...]
    """Mean cross-entropy in nats a token before every step and after the last one."""
    greedy_ok: bool
    """Whether the arg-max is right everywhere at `values`."""

    @property
    def steps(self) -> int:
        """Optimiser steps taken."""
        return len(self.losses) - 1


def plain_train(
    editable: EditableModel,
    contexts: Sequence[EditContext],
    labels: Sequence[int],
    layout: ValueLayout,
    parameters: MethodParameters,
    *,
    name: str = "",
    stop: bool = True,
    disturb: Disturb | None = None,
) -> PlainResult:
    """Train one value, one context a forward pass.

    Parameters
    ----------
    editable
        The base model.
    contexts
        Prompts that must all give the labels.
    labels
        Token ids of the target, and of the end where it is trained.
    layout
        Of the value.
    parameters
        Optimiser and stop rule.
    name
        What random numbers are derived from.
    stop
        False: take all `max_steps` steps, as the released code does.
    disturb
        Gives what is added to the site's output [positions, d_out] besides the value, by step and context number.
    """
    scale = _scale(editable, contexts, labels, layout)
    start = start_value(layout, editable.d_out, scale, name, parameters).to(editable.device)
    rates = row_rates(layout, editable.d_out, scale, parameters)
    # One parameter, or the two factors of a LoRA value, which learn at rates of their own.
    cuts = [layout.rank, layout.rank] if layout.rank else [len(start)]
    rows = [part.clone().requires_grad_() for part in torch.split(start, cuts)]
    parts = torch.split(rates, cuts)
    optimiser = torch.optim.Adam(
        [{"params": [row], "lr": float(rate[0])} for row, rate in zip(rows, parts, strict=True)]
    )
    losses: list[float] = []
    kept: tuple[bool, float, torch.Tensor] | None = None
    while True:
        optimiser.zero_grad()
        step = len(losses)
        noise = [disturb(step, number) if disturb else None for number in range(len(contexts))]
        task = _Task(editable, labels, layout, rows)
        loss, wrong = task.accumulate(contexts, noise, gradients=step < parameters.max_steps)
        if kept is None or parameters.keep_last or (wrong, loss) < kept[:2]:
            kept = (wrong, loss, torch.cat(rows).detach().cpu())
        losses.append(loss)
        if len(losses) > parameters.max_steps or (stop and _stops(losses, wrong=wrong, parameters=parameters)):
            return PlainResult(kept[2], tuple(losses), not kept[0])
        optimiser.step()


@dataclass(frozen=True, slots=True)
class _Task:
    editable: EditableModel
    labels: Sequence[int]
    layout: ValueLayout
    rows: Sequence[torch.Tensor]

    def accumulate(
        self, contexts: Sequence[EditContext], noise: Sequence[torch.Tensor | None], *, gradients: bool
    ) -> tuple[float, bool]:
        """Add up the gradients of the mean loss; return it and whether any arg-max is wrong."""
        total, wrong = 0.0, False
        for context, disturbance in zip(contexts, noise, strict=True):
            with torch.set_grad_enabled(gradients):
                logits = self._logits(context, disturbance)
                target = torch.tensor(list(self.labels), device=logits.device)
                loss = F.cross_entropy(logits, target) / len(contexts)
            if gradients:
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            wrong |= bool((logits.argmax(dim=-1) != target).any())
        return total, wrong

    def _logits(self, context: EditContext, noise: torch.Tensor | None) -> torch.Tensor:
        start = len(context.prompt_ids) - 1
        tokens = torch.tensor([[*context.prompt_ids, *self.labels[:-1]]], device=self.editable.device)
        with _written(self.editable.module, self.rows, start, self.layout, noise):
            output: Any = self.editable.model(input_ids=tokens, use_cache=False)
        logits: torch.Tensor = output.logits[0, start:]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _stops(losses: Sequence[float], *, wrong: bool, parameters: MethodParameters) -> bool:
    if parameters.stop_loss is not None and losses[-1] < parameters.stop_loss:
        return not wrong or not parameters.stop_when_greedy
    if parameters.patience is None or len(losses) <= parameters.patience:
        return False
    return min(losses[-parameters.patience :]) >= min(losses[: -parameters.patience])


@contextmanager
def _written(
    module: nn.Module, rows: Sequence[torch.Tensor], start: int, layout: ValueLayout, noise: torch.Tensor | None
) -> Iterator[None]:
    def add(_module: nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor:
        answer = output[:, start:]
        written = _value(rows, answer[0, : layout.span], layout)
        if noise is not None:
            written = written + noise[: len(written)].to(written.dtype)
        stop = start + len(written)
        return torch.cat([output[:, :start], output[:, start:stop] + written, output[:, stop:]], dim=1)

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _value(rows: Sequence[torch.Tensor], own: torch.Tensor, layout: ValueLayout) -> torch.Tensor:
    """Return what is added to the site's own output [positions, d_out]."""
    if layout.rank:
        down, up = rows
        return (own.float() @ down.T @ up).to(own.dtype)
    return rows[0].repeat_interleave(layout.chunk, dim=0)[: len(own)].to(own.dtype)


@torch.no_grad()
def _scale(
    editable: EditableModel, contexts: Sequence[EditContext], labels: Sequence[int], layout: ValueLayout
) -> float:
    """Return the root mean square of the site's output where the value is written, over all contexts."""
    outputs: list[torch.Tensor] = []
    for context in contexts:
        start = len(context.prompt_ids) - 1
        stop = start + min(layout.span, len(labels))

        def keep(_module: nn.Module, _args: object, output: torch.Tensor, span: slice = slice(start, stop)) -> None:
            outputs.append(output[0, span])

        handle = editable.module.register_forward_hook(keep)
        editable.model(
            input_ids=torch.tensor([[*context.prompt_ids, *labels[:-1]]], device=editable.device), use_cache=False
        )
        handle.remove()
    return float(torch.cat(outputs).float().square().mean().sqrt())
