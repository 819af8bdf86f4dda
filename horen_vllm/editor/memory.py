"""Memory: work on many rows in chunks that fit, halved whenever they turn out not to.

Does not know models; a chunk's work must be repeatable.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog
import torch

from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.loading.ranks import ALONE, Ranks

_CPU_MESSAGES: Final = ("can't allocate memory", "not enough memory", "could not create a primitive")
"""What torch says in a plain RuntimeError when the CPU's allocator fails; the last one is oneDNN's for its kernels."""


class MemoryLimit:
    """How much memory the work on one chunk may take.

    Parameters
    ----------
    limit_bytes
        Estimated bytes of a chunk; lowered when a chunk does not fit all the same.
    ranks
        Who else does the same work: what does not fit on one of them fits on none.
    """

    def __init__(self, limit_bytes: int, ranks: Ranks = ALONE) -> None:
        self.limit_bytes = limit_bytes
        self._most_bytes = limit_bytes
        self._ranks = ranks
        self._log = structlog.get_logger()

    def recover(self) -> None:
        """Double a limit that was lowered, up to what it was: whatever took the memory may be gone."""
        self.limit_bytes = min(2 * self.limit_bytes, self._most_bytes)

    def chunks(self, costs: Sequence[int], *, padding: float = math.inf) -> list[list[int]]:
        """Return the rows (indexes of `costs`) in chunks within the limit, those of like cost together.

        A padded chunk costs its dearest row times its number of rows; a row that is over the limit is alone.

        Parameters
        ----------
        costs
            Estimated bytes of each row.
        padding
            The dearest row of a chunk costs at most so many times its cheapest.
        """
        chunks: list[list[int]] = []
        for index in sorted(range(len(costs)), key=lambda index: costs[index]):
            alike = bool(chunks) and costs[index] <= padding * costs[chunks[-1][0]]
            if alike and costs[index] * (len(chunks[-1]) + 1) <= self.limit_bytes:
                chunks[-1].append(index)
            else:
                chunks.append([index])
        return chunks

    def run(self, costs: Sequence[int], work: Callable[[Sequence[int]], None], *, padding: float = math.inf) -> None:
        """Call `work` with chunks of row indexes; where memory lacks, with halves of them.

        A row that does not fit alone is left out.
        """
        waiting = self.chunks(costs, padding=padding)[::-1]
        while waiting:
            chunk = waiting.pop()
            if self.fits(partial(work, chunk), [costs[index] for index in chunk]):
                continue
            if len(chunk) > 1:
                middle = self.halve([costs[index] for index in chunk])
                waiting += [chunk[middle:], chunk[:middle]]

    def fits(self, work: Callable[[], None], costs: Sequence[int]) -> bool:
        """Return whether `work` on rows with these costs ran; False when it ended for lack of memory."""
        return self._ranks.all_ran(partial(_ran, work), max(costs) * len(costs))

    def halve(self, costs: Sequence[int]) -> int:
        """Lower the limit after a chunk with these row costs did not fit; return where to cut it in two.

        Raises
        ------
        EditFailed
            ``out_of_memory``, when the chunk is a single row.
        """
        if len(costs) == 1:
            message = f"one prompt with its answer alone does not fit into memory (about {costs[0]:,} bytes)."
            raise EditFailed(message, code="out_of_memory")
        middle = len(costs) // 2
        self.limit_bytes = min(self.limit_bytes, max(max(costs) * middle, 1))
        self._log.warning("batch does not fit into memory, halved", rows=len(costs), limit_bytes=self.limit_bytes)
        return middle


def _ran(work: Callable[[], None]) -> bool:
    try:
        work()
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
    else:
        return True
    # Outside the handler: the traceback holds the tensors of the failed attempt.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def is_out_of_memory(exc: BaseException) -> bool:
    """Return whether an allocation failed, on whatever device."""
    if isinstance(exc, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(exc, RuntimeError) and any(text in str(exc) for text in _CPU_MESSAGES)
