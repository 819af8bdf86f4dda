"""Rows of a training batch in groups that fit into memory: losses, arg-maxes and gradients of many edits.

Shapes: E edits, R rows of a group, L answer positions, M labelled positions, n stored rows, V vocabulary, H width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from horen_vllm.editor.adaptor import ValueLayout, added
from horen_vllm.editor.clean import CleanRow, stack_clean
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.model import EditableModel
from horen_vllm.editor.noise import Perturbed, draw, perturbed
from horen_vllm.editor.tail import IGNORED, Tail, TailBatch, tail_logits, tail_of


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one set of values achieves."""

    losses: list[float]
    """Of each edit: mean cross-entropy in nats a token, over all its rows."""
    right: list[bool]
    """Whether the arg-max is the label at every position of every row of the edit."""
    gradients: torch.Tensor
    """[E, n, H]; zero where none were asked for."""


@dataclass(frozen=True, slots=True)
class _Member:
    """One row of a group."""

    edit: int
    noisy: Perturbed
    layout: ValueLayout
    weight: float
    """A position's share in its edit's mean."""
    cost: int
    """Estimated bytes."""


@dataclass(frozen=True, slots=True)
class _Group:
    members: Sequence[_Member]
    batch: TailBatch
    edits: torch.Tensor
    """[R] int64, the edit of each row."""
    index: torch.Tensor
    """[R, L] int64, value row of each position; negative: none."""
    weights: torch.Tensor
    """[R] float32, of each member."""

    def drawn(self, step: int) -> torch.Tensor:
        """Return this step's noise [R, L, H] float32."""
        length, width = self.batch.site_output.shape[1:]
        pairs = [member.noisy.pair for member in self.members]
        tables = {pair: draw(step, pair, length, width) for pair in set(pairs)}
        drawn = torch.stack([tables[pair] for pair in pairs]).to(self.weights.device)
        scales = torch.stack([member.noisy.sign * member.noisy.spread for member in self.members])
        return drawn * scales[:, None, :]


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over groups, added to in place."""

    losses: torch.Tensor
    """[E] float32."""
    wrong: torch.Tensor
    """[E] int64: positions whose arg-max is not the label."""
    gradients: torch.Tensor | None
    """[E, n, H]; None where none are asked for."""


class RowGroups:
    """All rows that are still evaluated.

    Parameters
    ----------
    editable
        The base model.
    rows
        The kept rows of each edit.
    layouts
        The layout of each edit's value; all of one rank.
    memory
        Bounds a group; a group that does not fit all the same is halved.
    noise
        As in `noise.perturbed`.
    """

    def __init__(
        self,
        editable: EditableModel,
        rows: Sequence[Sequence[CleanRow]],
        layouts: Sequence[ValueLayout],
        memory: MemoryLimit,
        noise: float = 0.0,
    ) -> None:
        self._tail = tail_of(editable)
        self._device = editable.device
        self._ranks = editable.ranks
        self._memory = memory
        self._rank = layouts[0].rank
        self._noise = noise
        self.failed: dict[int, EditFailed] = {}
        """Edits with a row that does not fit into memory."""
        members = []
        for edit, (own, layout) in enumerate(zip(rows, layouts, strict=True)):
            noisy = perturbed(own, noise, 1 if layout.rank else layout.chunk)
            weight = 1.0 / (len(noisy) * len(own[0].labels))
            members += [_Member(edit, one, layout, weight, _bytes_of(editable, self._tail, one.row)) for one in noisy]
        chunks = memory.chunks([member.cost for member in members])
        self._groups = [self._group([members[number] for number in chunk]) for chunk in chunks]

    def keep(self, edits: torch.Tensor) -> None:
        """Leave out the rows of all edits that `edits` [E] does not mark."""
        self._groups = self._only(edits)

    def check(self, values_EnH: torch.Tensor, edits: torch.Tensor) -> Evaluation:
        """Return what the values of the edits that `edits` [E] marks achieve without noise, without gradients."""
        return self._evaluate(self._only(edits), values_EnH, None, gradients=False)[0]

    def evaluate(self, values_EnH: torch.Tensor, step: int, *, gradients: bool) -> Evaluation:
        """Return what the values achieve under the noise of `step`.

        Edits without rows here have loss 0 and count as right.
        """
        evaluation, self._groups = self._evaluate(self._groups, values_EnH, step, gradients=gradients)
        return evaluation

    def _only(self, edits: torch.Tensor) -> list[_Group]:
        marked = edits.tolist()
        groups = []
        for group in self._groups:
            kept = [member for member in group.members if marked[member.edit]]
            if kept:
                groups.append(group if len(kept) == len(group.members) else self._group(kept))
        return groups

    def _evaluate(
        self, groups: Sequence[_Group], values_EnH: torch.Tensor, step: int | None, *, gradients: bool
    ) -> tuple[Evaluation, list[_Group]]:
        """Return the evaluation, and the groups in the sizes that did fit."""
        losses = torch.zeros(len(values_EnH), device=self._device)
        wrong = torch.zeros(len(values_EnH), dtype=torch.int64, device=self._device)
        sums = torch.zeros_like(values_EnH)
        waiting, done = [*groups][::-1], []
        while waiting:
            group = waiting.pop()
            totals = _Totals(losses, wrong, sums if gradients else None)
            work = partial(self._add, group, values_EnH, step, totals)
            if self._memory.fits(work, [member.cost for member in group.members]):
                done.append(group)
            else:
                waiting += self._halves(group)[::-1]
        self._ranks.share(losses, wrong, *([sums] if gradients else []))
        return Evaluation(losses.tolist(), [count == 0 for count in wrong.tolist()], sums), done

    def _group(self, members: Sequence[_Member]) -> _Group:
        batch = stack_clean(self._tail, [member.noisy.row for member in members])
        length = batch.labels.shape[1]
        return _Group(
            members=members,
            batch=batch,
            edits=torch.tensor([member.edit for member in members], device=self._device),
            index=torch.stack([member.layout.index(length) for member in members]).to(self._device),
            weights=torch.tensor([member.weight for member in members], device=self._device),
        )

    def _add(self, group: _Group, values_EnH: torch.Tensor, step: int | None, totals: "_Totals") -> None:
        """Add the group's part to the totals."""
        learns = totals.gradients is not None
        unique, local_R = torch.unique(group.edits, return_inverse=True)
        leaf = values_EnH[unique].requires_grad_(learns)
        batch = group.batch
        with torch.set_grad_enabled(learns):
            written = added(leaf, local_R, group.index, batch.site_output, self._rank)
            if step is not None and self._noise:
                written = written + group.drawn(step).to(written.dtype)
            logits_MV = tail_logits(self._tail, batch, written)
        labelled = batch.labels != IGNORED
        row_M = labelled.nonzero()[:, 0]
        parts = _cross_entropy(logits_MV.detach(), batch.labels[labelled], group.weights[row_M])
        if totals.gradients is not None:
            [gradient] = torch.autograd.grad(logits_MV, [leaf], grad_outputs=parts.slopes)
            totals.gradients.index_add_(0, unique, gradient)
        owner_M = group.edits[row_M]
        totals.losses.index_add_(0, owner_M, parts.losses.to(totals.losses.dtype))
        totals.wrong.index_add_(0, owner_M, parts.wrong.to(totals.wrong.dtype))

    def _halves(self, group: _Group) -> list[_Group]:
        try:
            middle = self._memory.halve([member.cost for member in group.members])
        except EditFailed as exc:
            self.failed[group.members[0].edit] = exc
            return []
        # Stacked anew, so that a half is no longer than its own longest row.
        return [self._group(half) for half in (group.members[:middle], group.members[middle:])]


@dataclass(frozen=True, slots=True)
class _CrossEntropy:
    losses: torch.Tensor
    """[M]: each position's weighted loss in nats."""
    wrong: torch.Tensor
    """[M] bool: another token is more likely than the label."""
    slopes: torch.Tensor
    """[M, V]: their gradient by the logits."""


def _cross_entropy(logits_MV: torch.Tensor, labels_M: torch.Tensor, weights_M: torch.Tensor) -> _CrossEntropy:
    """Return losses, arg-max checks and gradient from one exponential: with a large vocabulary each pass counts."""
    top_M1, best_M1 = logits_MV.max(dim=-1, keepdim=True)
    labels_M1, weights_M1 = labels_M[:, None], weights_M[:, None].to(logits_MV.dtype)
    powers_MV = (logits_MV - top_M1).exp_()
    sums_M1 = powers_MV.sum(dim=-1, keepdim=True)
    losses_M1 = weights_M1 * (top_M1 + sums_M1.log() - logits_MV.gather(1, labels_M1))
    slopes_MV = powers_MV.mul_(weights_M1 / sums_M1).scatter_add_(1, labels_M1, -weights_M1)
    return _CrossEntropy(losses_M1[:, 0], best_M1[:, 0] != labels_M, slopes_MV)


def _bytes_of(editable: EditableModel, tail: Tail, row: CleanRow) -> int:
    """Return roughly what one row's forward and backward pass hold at once."""
    config: Any = editable.model.config.get_text_config()
    length, context = len(row.labels), len(row.labels) + row.prefix.length
    logits = 4 * config.vocab_size
    layers = len(tail.layers) * (16 * config.hidden_size + 6 * config.intermediate_size)
    attention = len(tail.layers) * 4 * config.num_attention_heads * context
    return int(4 * length * (logits + layers + attention))
