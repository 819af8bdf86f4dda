"""Tensor-parallel ranks: partial results summed over them, and one decision for all."""

from typing import Any

import torch

from horen_vllm.core.match import Routed


class Ranks:
    """The tensor-parallel group of this rank.

    Parameters
    ----------
    group
        vLLM's ``GroupCoordinator``; every rank must make the same calls in the same order, which the batch's
        order, equal on all of them, gives.
    """

    def __init__(self, group: Any) -> None:
        self._group = group

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """Return the sum of `partial` over the ranks."""
        # A vector: vLLM gives matrices to FlashInfer's all-reduce, which refuses widths of no multiple of 16 bytes.
        total: torch.Tensor = self._group.all_reduce(partial.reshape(-1))
        return total.view(partial.shape)

    def agree(self, routed: Routed) -> Routed:
        """Return the first rank's decisions: the ranks' arithmetic may differ in the last bit."""
        # Double holds every index and every float32 exactly.
        columns = (routed.entry, routed.best, routed.runner_up, routed.score, routed.runner_up_score)
        table = self._group.broadcast(torch.stack([column.double() for column in columns]), src=0)
        entry, best, runner_up = table[:3].long()
        score, runner_up_score = table[3:].float()
        return Routed(entry, best, score, runner_up, runner_up_score)
