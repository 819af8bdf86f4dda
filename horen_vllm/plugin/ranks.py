"""Tensor-parallel ranks: partial results summed over them, and one decision for all."""

from typing import Any

import torch

from horen_vllm.plugin.verdicts import Verdict


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

    def agree(self, verdict: Verdict) -> Verdict:
        """Return the first rank's decisions: the ranks' arithmetic may differ in the last bit."""
        # Double holds every index and every float32 exactly.
        table = self._group.broadcast(torch.stack([column.double() for column in verdict.columns()]), src=0)
        own = verdict.columns()
        return Verdict(*(row.to(column.dtype) for row, column in zip(table, own, strict=True)))
