"""Training: the values that make a frozen model give a target in all contexts of an edit (section 2.4).

A pure function of model, contexts, target and parameters; does not know codebooks or routing.
Shapes: B contexts, L trained positions (target, then end), V vocabulary, R value rows, H site output width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch.nn import functional as F

from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.values import value_index, value_rows, value_span
from horen_vllm.editor.batch import AnswerBatch, answer_batch, answer_logits
from horen_vllm.editor.capture import capture_site_outputs
from horen_vllm.editor.contexts import EditContext
from horen_vllm.editor.inject import inject_values
from horen_vllm.editor.model import EditableModel


class StopReason(StrEnum):
    """Why training ended."""

    CONVERGED = "converged"
    """Loss below `stop_loss`, and every arg-max right where that is asked for."""
    PATIENCE = "patience"
    """No lower loss for `patience` steps."""
    MAX_STEPS = "max_steps"
    """All steps taken."""


@dataclass(frozen=True, slots=True)
class TrainedValue:
    """The best iterate of a training run."""

    values: torch.Tensor
    """[span or 1, d_out] float32 on the CPU."""
    loss: float
    """Mean cross-entropy in nats a token at `values`, over all contexts."""
    steps: int
    """Optimiser steps taken by the whole run."""
    greedy_ok: bool
    """Whether the teacher-forced arg-max is right at every trained position of every context."""
    stop_reason: StopReason


@dataclass(frozen=True, slots=True)
class _Task:
    """What stays fixed over a run."""

    editable: EditableModel
    batch: AnswerBatch
    labels: torch.Tensor
    """[L] int64 token ids."""
    parameters: MethodParameters
    span: int

    def evaluate(self, values_RH: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """Return the mean loss and whether every arg-max is right."""
        mode = self.parameters.value_mode
        with inject_values(self.editable, self.batch, values_RH, mode=mode, span=self.span):
            logits_BLV = answer_logits(self.editable, self.batch)[:, : len(self.labels)]
        labels_BL = self.labels.expand(logits_BLV.shape[:2])
        loss = F.cross_entropy(logits_BLV.flatten(0, 1), labels_BL.flatten())
        return loss, bool((logits_BLV.argmax(dim=-1) == labels_BL).all())


@dataclass(frozen=True, slots=True)
class _Iterate:
    """One set of values and what it achieves."""

    values: torch.Tensor
    """[R, H] float32."""
    loss: float
    greedy_ok: bool

    def better_than(self, other: "_Iterate") -> bool:
        """Right everywhere beats any loss; then the lower loss wins."""
        return (not self.greedy_ok, self.loss) < (not other.greedy_ok, other.loss)


def train_value(
    editable: EditableModel,
    contexts: Sequence[EditContext],
    target_ids: Sequence[int],
    parameters: MethodParameters,
) -> TrainedValue:
    """Train one value for all contexts together and return the best iterate.

    Adam from zero on the mean cross-entropy of the target's tokens (and the end token, where the preset trains
    it), teacher-forced; the base model is never changed. Deterministic.

    Parameters
    ----------
    editable
        The base model.
    contexts
        Prompts that must all give the target; at least one.
    target_ids
        Token ids of the target, without the end token.
    parameters
        Value mode, optimiser and stop rule.
    """
    task = _task(editable, contexts, target_ids, parameters)
    rows = value_rows(parameters.value_mode, task.span)
    values_RH = torch.zeros(rows, editable.d_out, device=editable.device, requires_grad=True)
    optimiser = torch.optim.Adam([values_RH], lr=_learning_rate(task))
    best: _Iterate | None = None
    lowest, stale = float("inf"), 0
    for step in range(parameters.max_steps + 1):
        with torch.enable_grad():
            loss, greedy_ok = task.evaluate(values_RH)
        iterate = _Iterate(values_RH.detach().clone(), loss.item(), greedy_ok)
        best = iterate if best is None or iterate.better_than(best) else best
        stale = 0 if iterate.loss < lowest else stale + 1
        lowest = min(lowest, iterate.loss)
        reason = _stop_reason(iterate, step, stale, parameters)
        if reason is not None:
            break
        optimiser.zero_grad()
        torch.autograd.backward([loss], inputs=[values_RH])
        optimiser.step()
    assert best is not None
    assert reason is not None
    return TrainedValue(best.values.cpu(), best.loss, step, best.greedy_ok, reason)


@torch.no_grad()
def value_loss(
    editable: EditableModel,
    contexts: Sequence[EditContext],
    target_ids: Sequence[int],
    values: torch.Tensor,
    parameters: MethodParameters,
) -> float:
    """Return the loss that `values` [R, H] have in these contexts, as `train_value` would report it."""
    loss, _ = _task(editable, contexts, target_ids, parameters).evaluate(values)
    return loss.item()


def _task(
    editable: EditableModel,
    contexts: Sequence[EditContext],
    target_ids: Sequence[int],
    parameters: MethodParameters,
) -> _Task:
    prompts = [context.prompt_ids for context in contexts]
    batch = answer_batch(prompts, [target_ids] * len(prompts), editable.device)
    labels = [*target_ids, editable.end_id] if parameters.train_end else [*target_ids]
    labels_L = torch.tensor(labels, device=editable.device)
    return _Task(editable, batch, labels_L, parameters, value_span(len(target_ids), parameters))


@torch.no_grad()
def _learning_rate(task: _Task) -> float:
    parameters = task.parameters
    if not parameters.scale_learning_rate:
        return parameters.learning_rate
    with capture_site_outputs(task.editable.module) as captured:
        answer_logits(task.editable, task.batch)
    written_BS = value_index(task.batch.offsets, parameters.value_mode, task.span) >= 0
    rms = captured[0][written_BS].float().square().mean().sqrt()
    return parameters.learning_rate * rms.item()


def _stop_reason(iterate: _Iterate, step: int, stale: int, parameters: MethodParameters) -> StopReason | None:
    reached = parameters.stop_loss is not None and iterate.loss < parameters.stop_loss
    if reached and (iterate.greedy_ok or not parameters.stop_when_greedy):
        return StopReason.CONVERGED
    if parameters.patience is not None and stale >= parameters.patience:
        return StopReason.PATIENCE
    return StopReason.MAX_STEPS if step == parameters.max_steps else None
