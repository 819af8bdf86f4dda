"""Rows of a training batch in groups that fit into memory: losses, arg-maxes and gradients of many edits.

Shapes: E edits, R rows of a group, L answer positions, M labelled positions, n stored rows, V vocabulary, H width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.forward.clean import CleanRow
from horen_vllm.editor.forward.tail import IGNORED, tail_logits, tail_of
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.training.adaptor import ValueLayout, added
from horen_vllm.editor.training.groups import Group, Member, cross_entropy
from horen_vllm.editor.training.noise import perturbed


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
        The layout of each edit's value; all of one rank, and all added or all in the output's place.
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
        self._editable = editable
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
            share, clean = 1.0 / (len(noisy) * len(own[0].labels)), 1.0 / (len(own) * len(own[0].labels))
            members += [
                Member(edit, one, layout, share, clean if number < len(own) else 0.0, self._bytes_of(one.row))
                for number, one in enumerate(noisy)
            ]
        chunks = memory.chunks([member.cost for member in members])
        self._groups = [Group(self._tail, [members[number] for number in chunk]) for chunk in chunks]

    def keep(self, edits: torch.Tensor) -> None:
        """Leave out the rows of all edits that `edits` [E] does not mark."""
        self._groups = self._only(edits)

    def check(self, values_EnH: torch.Tensor, edits: torch.Tensor) -> Evaluation:
        """Return what the values of the edits that `edits` [E] marks achieve without noise, without gradients."""
        return self._evaluate(self._only(edits), values_EnH, None, gradients=False)[0]

    def evaluate(self, values_EnH: torch.Tensor, step: int | None, *, gradients: bool) -> Evaluation:
        """Return what the values achieve under the noise of `step`; None: without noise.

        Edits without rows here have loss 0 and count as right.
        """
        evaluation, self._groups = self._evaluate(self._groups, values_EnH, step, gradients=gradients)
        return evaluation

    def _only(self, edits: torch.Tensor) -> list[Group]:
        marked = edits.tolist()
        groups = []
        for group in self._groups:
            kept = [member for member in group.members if marked[member.edit]]
            if kept:
                groups.append(group if len(kept) == len(group.members) else Group(self._tail, kept))
        return groups

    def _evaluate(
        self, groups: Sequence[Group], values_EnH: torch.Tensor, step: int | None, *, gradients: bool
    ) -> tuple[Evaluation, list[Group]]:
        """Return the evaluation, and the groups in the sizes that did fit."""
        losses = torch.zeros(len(values_EnH), device=self._device)
        wrong = torch.zeros(len(values_EnH), dtype=torch.int64, device=self._device)
        sums = torch.zeros_like(values_EnH)
        waiting, done = [*groups][::-1], []
        while waiting:
            group = waiting.pop()
            totals = _Totals(losses, wrong, sums if gradients else None)
            work = partial(self._add, group, values_EnH, step, totals)
            if self._memory.fits(work, group.costs):
                done.append(group)
            else:
                waiting += self._halves(group)[::-1]
        self._ranks.share(losses, wrong, *([sums] if gradients else []))
        return Evaluation(losses.tolist(), [count == 0 for count in wrong.tolist()], sums), done

    def _add(self, group: Group, values_EnH: torch.Tensor, step: int | None, totals: "_Totals") -> None:
        """Add the group's part to the totals."""
        learns = totals.gradients is not None
        noisy = step is not None and bool(self._noise)
        stacked = group.stacked()
        batch = stacked.batch
        unique, local_R = torch.unique(stacked.edits, return_inverse=True)
        leaf = values_EnH[unique].requires_grad_(learns)
        with torch.set_grad_enabled(learns):
            written = added(leaf, local_R, stacked.index, batch.site_output, self._rank)
            if step is not None and noisy:
                written = written + group.noise(step).to(written.dtype)
            logits_MV = tail_logits(self._tail, batch, written)
        labelled = batch.labels != IGNORED
        row_M = labelled.nonzero()[:, 0]
        weights_R = stacked.weights[0 if noisy else 1]
        parts = cross_entropy(logits_MV.detach(), batch.labels[labelled], weights_R[row_M])
        if totals.gradients is not None:
            [gradient] = torch.autograd.grad(logits_MV, [leaf], grad_outputs=parts.slopes)
            totals.gradients.index_add_(0, unique, gradient)
        owner_M = stacked.edits[row_M]
        totals.losses.index_add_(0, owner_M, parts.losses.to(totals.losses.dtype))
        totals.wrong.index_add_(0, owner_M, parts.wrong.to(totals.wrong.dtype))

    def _halves(self, group: Group) -> list[Group]:
        try:
            middle = self._memory.halve(group.costs)
        except EditFailed as exc:
            self.failed[group.members[0].edit] = exc
            return []
        return [Group(self._tail, half) for half in (group.members[:middle], group.members[middle:])]

    def _bytes_of(self, row: CleanRow) -> int:
        """Return roughly what one row's forward and backward pass hold at once."""
        config: Any = self._editable.model.config.get_text_config()
        length, context = len(row.labels), len(row.labels) + row.prefix.length
        logits = 4 * config.vocab_size
        layers = len(self._tail.layers) * (16 * config.hidden_size + 6 * config.intermediate_size)
        attention = len(self._tail.layers) * 4 * config.num_attention_heads * context
        return int(4 * length * (logits + layers + attention))
