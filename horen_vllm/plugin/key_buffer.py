"""The key buffer: one preallocated run of numbers, from which rows of any width are handed out.

Codebooks in different routing spaces have keys of different widths, and share one budget.
"""

import threading

import numpy as np
import torch

from horen_vllm.core.paging import RowAllocator


class KeyBuffer:
    """Keys, and the maps of fitted spaces, of one rank. Safe for use from several threads.

    A row of width w stands at a multiple of w, so that ``rows(w)`` addresses it by one number.

    Parameters
    ----------
    size
        Numbers (float32) in the buffer.
    poison
        Whether numbers that belong to nobody are NaN.

    Attributes
    ----------
    numbers
        [size] float32.
    """

    def __init__(self, size: int, device: torch.device, *, poison: bool = False) -> None:
        self.numbers = _zeros(size, device)
        if poison:
            self.numbers.fill_(torch.nan)
        self._allocator = RowAllocator(size)
        self._poison = poison
        self._lock = threading.Lock()

    def rows(self, width: int) -> torch.Tensor:
        """Return the whole buffer as rows [size // width, width]; which of them are keys the caller knows."""
        return self.numbers[: self.numbers.shape[0] // width * width].view(-1, width)

    def take(self, count: int, width: int) -> int:
        """Return the first of `count` (>= 1) rows of `width` numbers that are now the caller's.

        Raises
        ------
        FailedPrecondition
            ``capacity_exhausted``; nothing is taken then.
        """
        with self._lock:
            return self._allocator.allocate(count * width, align=width) // width

    def give_back(self, row: int, width: int) -> None:
        """Take back the rows that `take` returned as `row`; KeyError if they are not in use."""
        with self._lock:
            count = self._allocator.free(row * width)
            if self._poison:
                self.numbers[row * width : row * width + count] = torch.nan

    def usage(self) -> dict[str, int]:
        """Return used, free and budgeted numbers."""
        with self._lock:
            return usage(self._allocator)


def _zeros(size: int, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.zeros(size, dtype=torch.float32, device=device)
    # numpy asks Linux for large pages: with small ones a sweep waits for the page table, too.
    return torch.from_numpy(np.zeros(size, dtype=np.float32))


def usage(rows: RowAllocator) -> dict[str, int]:
    """Return how much of a buffer is used, free and budgeted."""
    return {"used": rows.capacity - rows.num_free, "free": rows.num_free, "budget": rows.capacity}
