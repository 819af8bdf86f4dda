"""Device tables that the injection reads: what each running tagged request writes, and which rows are whose.

All of it has a fixed address, so that a captured graph reads what the next step has put there.
"""

from collections.abc import Sequence

import numpy as np
import torch

from horen_vllm.core.values import NO_VALUE
from horen_vllm.plugin.plan import StepPlan
from horen_vllm.plugin.requests import TrackedRequest
from horen_vllm.plugin.revisions import VALUE_COLUMNS


class SlotTables:
    """One row a running request, and one number a row of the batch.

    Parameters
    ----------
    num_slots
        Most requests that run at once.
    max_tokens
        Most rows of a batch, padding included.

    Attributes
    ----------
    values
        [VALUE_COLUMNS, S] int64: first value row (`NO_VALUE`: none), span, chunk, LoRA rank.
    answer_start
        [S] int64, position of answer token 0.
    token_slot
        [T] int32, the slot that a batch row belongs to; -1: nobody's, or not an answer position.
    """

    def __init__(self, num_slots: int, max_tokens: int, device: torch.device) -> None:
        self.values = torch.zeros(VALUE_COLUMNS, num_slots, dtype=torch.int64, device=device)
        self.values[0] = NO_VALUE
        # Even where nothing is written, nothing may be divided by zero.
        self.values[2] = 1
        self.answer_start = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.token_slot = torch.full((max_tokens,), -1, dtype=torch.int32, device=device)
        self._used = 0
        """Rows of `token_slot` that may differ from -1."""

    def begin_step(self, plan: StepPlan) -> None:
        """Fill `token_slot` for the next forward pass; touches nothing when no request writes."""
        last = max((stop for _, _, stop in plan.writes), default=0)
        if max(last, self._used) == 0:
            return
        owners = np.full(max(last, self._used), -1, dtype=np.int32)
        for slot, start, stop in plan.writes:
            owners[start:stop] = slot
        copied(self.token_slot[: len(owners)], torch.from_numpy(owners))
        self._used = last

    def enter(self, tracked: list[TrackedRequest], rows: torch.Tensor) -> None:
        """Write what these requests may inject: `rows` [n, VALUE_COLUMNS], on the device."""
        slots = self.numbers([request.slot for request in tracked])
        self.values[:, slots] = rows.T
        self.answer_start[slots] = self.numbers([request.prompt_length - 1 for request in tracked])
        for request in tracked:
            request.in_slot = True

    def numbers(self, values: Sequence[int | None]) -> torch.Tensor:
        """Return whole numbers as an int64 tensor on the device."""
        return on_device(torch.tensor(values, dtype=torch.int64), self.values.device)


def on_device(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a CPU tensor's copy on the device, without waiting for it."""
    return copied(torch.empty_like(host, device=device), host)


def copied(target: torch.Tensor, host: torch.Tensor) -> torch.Tensor:
    """Copy a CPU tensor into one on the device, without waiting for it, and return that."""
    if target.device.type == "cuda":
        # Fresh pinned memory: with async scheduling the step before may still read the last one's.
        return target.copy_(host.pin_memory(), non_blocking=True)
    return target.copy_(host)
