"""Training: values for many edits at once, each as if it were trained alone (section 2.4, appendix D.3).

Only the layers after the site run, on the answer positions only. Every edit has its own loss, optimiser state, best
iterate and stop; an edit that has stopped leaves the batch. Does not know codebooks or routing.
Shapes: E edits, R rows (an edit in one context), L answer positions, n stored rows, H width of the site's output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import torch

from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.forward.clean import CleanRow
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.training.adam import BatchedAdam
from horen_vllm.editor.training.adaptor import ValueLayout, row_rates, start_value
from horen_vllm.editor.training.rows import Evaluation, RowGroups

Progress = Callable[[int, int], None]
"""Told the steps taken and the number of edits that are still trained."""


class StopReason(StrEnum):
    """Why training ended."""

    CONVERGED = "converged"
    """Loss below `stop_loss`, and every arg-max right where that is asked for."""
    PATIENCE = "patience"
    """No lower loss for `patience` steps."""
    MAX_STEPS = "max_steps"
    """All steps taken."""


@dataclass(frozen=True, slots=True)
class ValueTask:
    """One edit to train a value for."""

    name: str
    """What random numbers are derived from (`adaptor.start_value`)."""
    layout: ValueLayout
    rows: Sequence[CleanRow]
    """The edit in each of its contexts; the loss is their mean."""


@dataclass(frozen=True, slots=True)
class TrainedValue:
    """The iterate of a training run that is kept."""

    values: torch.Tensor
    """[rows, d_out] float32 on the CPU."""
    loss: float
    """Mean cross-entropy in nats a token at `values`, over all contexts."""
    steps: int
    """Optimiser steps taken by the whole run."""
    greedy_ok: bool
    """Whether the arg-max is right at every answer position of every context."""
    stop_reason: StopReason


def train_values(
    editable: EditableModel,
    tasks: Sequence[ValueTask],
    parameters: MethodParameters,
    memory: MemoryLimit,
    progress: Progress = lambda _steps, _left: None,
) -> list[TrainedValue | EditFailed]:
    """Train one value for each task and return, in order, what became of it.

    Adam on the mean cross-entropy of the labels, teacher-forced, in all contexts of an edit together. Which edits
    are trained together changes results by rounding only.

    Returns
    -------
    list
        For an edit whose single rows do not fit into memory: EditFailed ``out_of_memory``.
    """
    if not tasks:
        return []
    run = _Run(editable, tasks, parameters, memory)
    for step in range(parameters.max_steps + 1):
        # The start is looked at without noise: some targets need no edit.
        evaluation = run.groups.evaluate(run.values, step or None, gradients=step < parameters.max_steps)
        run.judge(evaluation, step)
        if not run.moving.any():
            break
        progress(step, int(run.moving.sum()))
        run.adam.step(evaluation.gradients, run.moving)
    return run.results()


@dataclass(slots=True)
class _Kept:
    """What is remembered of one edit while it is trained."""

    loss: float = float("inf")
    greedy_ok: bool = False
    lowest: float = float("inf")
    stale: int = 0
    stopped: tuple[int, StopReason] | None = None


@dataclass(slots=True)
class _Run:
    editable: EditableModel
    tasks: Sequence[ValueTask]
    parameters: MethodParameters
    memory: MemoryLimit
    values: torch.Tensor = field(init=False)
    """[E, n, H] float32, zero behind an edit's own rows."""
    best: torch.Tensor = field(init=False)
    moving: torch.Tensor = field(init=False)
    """[E] bool: the edits that are still trained."""
    adam: BatchedAdam = field(init=False)
    groups: RowGroups = field(init=False)
    kept: list[_Kept] = field(init=False)

    def __post_init__(self) -> None:
        device, width = self.editable.device, self.editable.d_out
        scales = self._scales()
        starts = [
            start_value(task.layout, width, scale, task.name, self.parameters)
            for task, scale in zip(self.tasks, scales, strict=True)
        ]
        rates = [
            row_rates(task.layout, width, scale, self.parameters)
            for task, scale in zip(self.tasks, scales, strict=True)
        ]
        self.values = torch.nn.utils.rnn.pad_sequence(starts, batch_first=True).to(device)
        self.best = self.values.clone()
        self.moving = torch.ones(len(self.tasks), dtype=torch.bool, device=device)
        self.adam = BatchedAdam(self.values, torch.nn.utils.rnn.pad_sequence(rates, batch_first=True).to(device))
        layouts = [task.layout for task in self.tasks]
        rows = [task.rows for task in self.tasks]
        self.groups = RowGroups(self.editable, rows, layouts, self.memory, self.parameters.noise)
        self.kept = [_Kept() for _ in self.tasks]

    def judge(self, evaluation: Evaluation, step: int) -> None:
        """Remember the best iterates, and stop the edits whose rule says so."""
        active = [
            edit for edit, kept in enumerate(self.kept) if kept.stopped is None and edit not in self.groups.failed
        ]
        better = torch.zeros_like(self.moving)
        reasons: dict[int, StopReason] = {}
        for edit in active:
            loss, right = evaluation.losses[edit], evaluation.right[edit]
            better[edit] = self._improve(self.kept[edit], loss, right)
            reason = self._stop_reason(self.kept[edit], loss, right, step)
            if reason is not None:
                reasons[edit] = reason
        self.best = torch.where(better[:, None, None], self.values, self.best)
        for edit, reason in (self._confirmed(reasons, step) if self.parameters.noise else reasons).items():
            self.kept[edit].stopped = step, reason
        going = [kept.stopped is None and edit not in self.groups.failed for edit, kept in enumerate(self.kept)]
        self.moving = torch.tensor(going, device=self.moving.device)
        self.groups.keep(self.moving)

    def _confirmed(self, reasons: dict[int, StopReason], step: int) -> dict[int, StopReason]:
        """Return the stops that hold without noise; the values that serve will meet none."""
        if not reasons:
            return {}
        asked = torch.zeros_like(self.moving)
        asked[list(reasons)] = True
        converged = [edit for edit, reason in reasons.items() if reason is StopReason.CONVERGED]
        candidates = self.best.clone()
        candidates[converged] = self.values[converged]
        clean = self.groups.check(candidates, asked)
        confirmed = {}
        for edit, reason in reasons.items():
            loss, right = clean.losses[edit], clean.right[edit]
            holds = reason is not StopReason.CONVERGED or self._reached(loss, right)
            if holds or step == self.parameters.max_steps:
                self.kept[edit].loss, self.kept[edit].greedy_ok = loss, right
                self.best[edit] = candidates[edit]
                confirmed[edit] = reason if holds else StopReason.MAX_STEPS
        return confirmed

    def _scales(self) -> list[float]:
        scales = torch.tensor([_scale(task) for task in self.tasks], dtype=torch.float64)
        self.editable.ranks.share(scales)
        return scales.tolist()

    def results(self) -> list[TrainedValue | EditFailed]:
        return [self._result(edit, task.layout.rows) for edit, task in enumerate(self.tasks)]

    def _improve(self, kept: _Kept, loss: float, right: bool) -> bool:
        # Right everywhere beats any loss; then the lower loss wins.
        better = (not right, loss) < (not kept.greedy_ok, kept.loss) or self.parameters.keep_last
        if better:
            kept.loss, kept.greedy_ok = loss, right
        kept.stale = 0 if loss < kept.lowest else kept.stale + 1
        kept.lowest = min(kept.lowest, loss)
        return better

    def _stop_reason(self, kept: _Kept, loss: float, right: bool, step: int) -> StopReason | None:
        parameters = self.parameters
        if self._reached(loss, right):
            return StopReason.CONVERGED
        if parameters.patience is not None and kept.stale >= parameters.patience:
            return StopReason.PATIENCE
        return StopReason.MAX_STEPS if step == parameters.max_steps else None

    def _reached(self, loss: float, right: bool) -> bool:
        bound = self.parameters.stop_loss
        return bound is not None and loss < bound and (right or not self.parameters.stop_when_greedy)

    def _result(self, edit: int, rows: int) -> TrainedValue | EditFailed:
        if edit in self.groups.failed:
            return self.groups.failed[edit]
        kept = self.kept[edit]
        assert kept.stopped is not None, "a run ends when every edit has stopped"
        steps, reason = kept.stopped
        return TrainedValue(self.best[edit, :rows].cpu(), kept.loss, steps, kept.greedy_ok, reason)


def _scale(task: ValueTask) -> float:
    """Return the root mean square of the site's output where the value is written, over all contexts."""
    written = [row.site_output[task.layout.index(len(row.labels)) >= 0] for row in task.rows]
    return float(torch.cat(written).float().square().mean().sqrt())
