"""Copies of a pack's rows into a buffer, small enough not to delay the engine steps beside them."""

from collections.abc import Iterator
from typing import Final

import torch

from horen_vllm.plugin.breath import breathing

_PIECE_BYTES: Final = 1 << 19
"""Largest copy in one go: a longer one would delay the engine step that runs beside it."""


class RowWriter:
    """Rows of a pack and where they go, joined into as few copies as their places allow.

    Parameters
    ----------
    source
        [n, width] rows of a pack.
    """

    def __init__(self, source: torch.Tensor) -> None:
        self._source = source
        self._runs: list[list[int]] = []

    def add(self, source_row: int, target_row: int, count: int) -> None:
        """Add `count` rows that stand together."""
        last = self._runs[-1] if self._runs else None
        if last is not None and last[0] + last[2] == source_row and last[1] + last[2] == target_row:
            last[2] += count
        else:
            self._runs.append([source_row, target_row, count])

    def copy_into(self, buffer: torch.Tensor, columns: slice) -> None:
        """Copy all rows into `buffer`, of the source's columns only these."""
        for source, target, count in breathing(self._pieces()):
            rows = self._source[source : source + count, columns]
            buffer[target : target + count].copy_(rows, non_blocking=True)

    def _pieces(self) -> Iterator[tuple[int, int, int]]:
        for source, target, count in self._runs:
            most = max(1, _PIECE_BYTES // self._source[0].nbytes)
            for done in range(0, count, most):
                yield source + done, target + done, min(most, count - done)
