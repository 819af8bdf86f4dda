"""Paging: which rows of a preallocated buffer belong to whom. Plain integers; the tensors live elsewhere."""

from bisect import bisect_left, insort

from horen_vllm.errors import FailedPrecondition


class RowAllocator:
    """Hands out contiguous runs of rows of a fixed-size buffer, first fit, and takes them back.

    Parameters
    ----------
    capacity
        Number of rows in the buffer.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free: list[tuple[int, int]] = [(0, capacity)] if capacity else []
        self._used: dict[int, int] = {}

    @property
    def num_free(self) -> int:
        """Rows that belong to nobody."""
        return sum(count for _, count in self._free)

    def allocate(self, count: int, align: int = 1) -> int:
        """Return the first row, a multiple of `align`, of a run of `count` (>= 1) rows that are now the caller's.

        Raises
        ------
        FailedPrecondition
            ``capacity_exhausted``, when no free run is long enough; nothing is taken then.
        """
        for index, (start, length) in enumerate(self._free):
            first = -(-start // align) * align
            if first + count <= start + length:
                ends = ((start, first), (first + count, start + length))
                self._free[index : index + 1] = [(begin, stop - begin) for begin, stop in ends if stop > begin]
                self._used[first] = count
                return first
        # Without numbers: the rows are all tenants', and one of them reads this.
        message = "no room: the server's budget for keys or values is used up."
        raise FailedPrecondition(message, code="capacity_exhausted")

    def free(self, start: int) -> int:
        """Take back the run that `allocate` returned as `start`, and return its length; KeyError if not in use."""
        count = self._used.pop(start)
        insort(self._free, (start, count))
        index = bisect_left(self._free, (start, count))
        self._merge(index)
        if index > 0:
            self._merge(index - 1)
        return count

    def _merge(self, index: int) -> None:
        if index + 1 >= len(self._free):
            return
        start, count = self._free[index]
        next_start, next_count = self._free[index + 1]
        if start + count == next_start:
            self._free[index : index + 2] = [(start, count + next_count)]
