"""A group of rows that run together through the tail, and the cross-entropy of what comes out.

Shapes: R rows, L answer positions, M labelled positions, V vocabulary, H width of the site's output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from horen_vllm.editor.forward.clean import stack_clean
from horen_vllm.editor.forward.tail import Tail, TailBatch
from horen_vllm.editor.training.adaptor import ValueLayout, beneath
from horen_vllm.editor.training.noise import Perturbed, draw


@dataclass(frozen=True, slots=True)
class Member:
    """One row of a group."""

    edit: int
    noisy: Perturbed
    layout: ValueLayout
    weight: float
    """A position's share in its edit's mean under noise."""
    clean_weight: float
    """The same without noise, where no row counts twice."""
    cost: int
    """Estimated bytes."""


@dataclass(frozen=True, slots=True)
class Stacked:
    """The rows of a group as tensors."""

    batch: TailBatch
    """Its `site_output` is what values are added to (`adaptor.beneath`)."""
    edits: torch.Tensor
    """[R] int64, the edit of each row."""
    index: torch.Tensor
    """[R, L] int64, value row of each position; negative: none."""
    weights: torch.Tensor
    """[2, R] float32, of each member: under noise, and without."""


class Group:
    """Rows that run together; stacked when they first run, so that this, too, may run out of memory.

    Parameters
    ----------
    tail
        The modules after the site.
    members
        The rows, at least one.
    """

    def __init__(self, tail: Tail, members: Sequence[Member]) -> None:
        self.members = members
        self._tail = tail
        self._stacked: Stacked | None = None

    @property
    def costs(self) -> list[int]:
        """Estimated bytes of each row."""
        return [member.cost for member in self.members]

    def stacked(self) -> Stacked:
        """Return the rows as one batch, no longer than its own longest row."""
        if self._stacked is None:
            batch = stack_clean(self._tail, [member.noisy.row for member in self.members])
            device, length = batch.labels.device, batch.labels.shape[1]
            index = torch.stack([member.layout.index(length) for member in self.members]).to(device)
            outputs = beneath(self.members[0].layout, index, batch.site_output)
            weights = [[member.weight for member in self.members], [member.clean_weight for member in self.members]]
            self._stacked = Stacked(
                batch=replace(batch, site_output=outputs),
                edits=torch.tensor([member.edit for member in self.members], device=device),
                index=index,
                weights=torch.tensor(weights, device=device),
            )
        return self._stacked

    def noise(self, step: int) -> torch.Tensor:
        """Return what is added at the positions with a value in this step, [R, L, H] float32."""
        stacked = self.stacked()
        length, width = stacked.batch.site_output.shape[1:]
        pairs = [member.noisy.pair for member in self.members]
        tables = {pair: draw(step, pair, length, width) for pair in set(pairs)}
        drawn = torch.stack([tables[pair] for pair in pairs]).to(stacked.index.device)
        scales = torch.stack([member.noisy.sign * member.noisy.spread for member in self.members])
        return drawn * scales[:, None, :] * (stacked.index >= 0)[..., None]


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """What logits say about labels."""

    losses: torch.Tensor
    """[M]: each position's weighted loss in nats."""
    wrong: torch.Tensor
    """[M] bool: another token is more likely than the label, or the loss is not a finite number."""
    slopes: torch.Tensor
    """[M, V]: their gradient by the logits."""


def cross_entropy(logits_MV: torch.Tensor, labels_M: torch.Tensor, weights_M: torch.Tensor) -> CrossEntropy:
    """Return losses, arg-max checks and gradient from one exponential: with a large vocabulary each pass counts."""
    top_M1, best_M1 = logits_MV.max(dim=-1, keepdim=True)
    labels_M1, weights_M1 = labels_M[:, None], weights_M[:, None].to(logits_MV.dtype)
    powers_MV = (logits_MV - top_M1).exp_()
    sums_M1 = powers_MV.sum(dim=-1, keepdim=True)
    losses_M1 = weights_M1 * (top_M1 + sums_M1.log() - logits_MV.gather(1, labels_M1))
    slopes_MV = powers_MV.mul_(weights_M1 / sums_M1).scatter_add_(1, labels_M1, -weights_M1)
    wrong_M = (best_M1[:, 0] != labels_M) | ~losses_M1[:, 0].isfinite()
    return CrossEntropy(losses_M1[:, 0], wrong_M, slopes_MV)
