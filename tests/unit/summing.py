"""Tensor-parallel groups of one process: each rank is a thread, and a sum waits for all of them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
_TIMEOUT_S = 20


class SummingGroup:
    """One rank's end of a group, with the calls of vLLM's ``GroupCoordinator`` that we use."""

    def __init__(self, rank: int, parts: list[torch.Tensor], barrier: threading.Barrier) -> None:
        self.rank_in_group, self.world_size = rank, len(parts)
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self._parts, self._barrier = parts, barrier

    def all_reduce(self, part: torch.Tensor) -> torch.Tensor:
        """Return the sum over the ranks. The argument's memory is used up, as vLLM's CPU communicator may do."""
        total = self._exchange("all_reduce", part, lambda parts: torch.stack(parts).sum(dim=0))
        part.fill_(torch.nan)
        return total

    def broadcast(self, part: torch.Tensor, src: int = 0) -> torch.Tensor:
        """Return the tensor of rank `src`."""
        return self._exchange("broadcast", part, lambda parts: parts[src].clone())

    def _exchange(
        self, name: str, part: torch.Tensor, result: Callable[[list[torch.Tensor]], torch.Tensor]
    ) -> torch.Tensor:
        self.calls.append((name, tuple(part.shape)))
        self._parts[self.rank_in_group] = part
        self._barrier.wait(_TIMEOUT_S)
        found = result(list(self._parts))
        self._barrier.wait(_TIMEOUT_S)
        return found


def make_groups(count: int) -> list[SummingGroup]:
    """Return the ends of one group of `count` ranks."""
    parts, barrier = [torch.empty(0)] * count, threading.Barrier(count)
    return [SummingGroup(rank, parts, barrier) for rank in range(count)]


def on_all(calls: list[Callable[[], T]]) -> list[T]:
    """Run each rank's call on a thread of its own and return the results in order of the ranks."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(_TIMEOUT_S) for future in [pool.submit(call) for call in calls]]
