"""The keys of one revision on a CPU: scored, and added up with their weights, in one reading.

How the keys are cut into parts is a function of their number and width alone, and each part's numbers are of one order,
so a row's result has the same bits in every batch and with any number of threads.
Shapes: B queries, N keys of the revision, P rows of the key buffer, D width, E entries, k places.
"""

from typing import Final

import numpy as np
import torch

from horen_vllm.kernels import cpu_kernels as loops
from horen_vllm.kernels.cpu_threads import in_parallel

_PART: Final = 1 << 22
"""Numbers in a part at least: less is done before another thread has begun."""
_PARTS: Final = 16
"""More would take long to add up."""
_GENTLE: Final = 40.0
"""Largest beta at which ``exp(beta (s - 1))`` keeps its precision in fp32 for any cosine."""


class Book:
    """The keys of one revision, where they lie; parameters as `route_cpu.route_cpu` says."""

    def __init__(
        self, keys_PD: torch.Tensor, rows_N: torch.Tensor, owners_N: torch.Tensor, sequences_E: torch.Tensor
    ) -> None:
        self._keys = keys_PD.numpy()
        self._rows = rows_N.contiguous().numpy()
        self.owners = owners_N.contiguous().numpy()
        self.sequences = sequences_E.contiguous().numpy()
        self.places = np.arange(len(self._rows))

    def scores(self, queries: loops.Array, places: loops.Array | None = None) -> loops.Array:
        """Return the scores [B, k] of some keys, or of all: each the same bits in every call that asks for it.

        Parameters
        ----------
        queries
            [B, D] float32, B even.
        """
        rows = self._rows if places is None else self._rows[places]
        scores, starts = np.empty((len(queries), len(rows)), np.float32), self._starts(len(rows))

        def work(part: int) -> None:
            loops.score_keys(queries, self._keys, rows, starts[part], starts[part + 1], scores)

        in_parallel(work, len(starts) - 1)
        return scores

    def sweep(self, queries: loops.Array, count: int, beta: float) -> tuple[loops.Array, loops.Array]:
        """Return the scores [count, N], right but for rounding, and ``pK`` [count, D] but for a factor.

        Parameters
        ----------
        queries
            [B, D] float32, B even.
        count
            How many of them are asked for: B, or one less.
        """
        scores, starts = np.empty((len(queries), len(self._rows)), np.float32), self._starts(len(self._rows))
        sums = np.zeros((len(starts) - 1, count, queries.shape[1]), np.float32)
        tops = np.full(sums.shape[:2], 1.0 if beta <= _GENTLE else -np.inf, np.float32)

        def work(part: int) -> None:
            ends = starts[part], starts[part + 1]
            loops.sweep_keys(queries, self._keys, self._rows, np.float32(beta), *ends, scores, sums[part], tops[part])

        in_parallel(work, len(starts) - 1)
        return scores[:count], _joined(sums, tops, beta)

    def _starts(self, count: int) -> list[int]:
        """Return where the parts of so many keys begin, and where the last one ends."""
        parts = min(_PARTS, max(1, count * self._keys.shape[1] // _PART))
        quads = -(-count // loops.QUAD)
        return [min(count, part * quads // parts * loops.QUAD) for part in range(parts + 1)]


def _joined(sums: loops.Array, tops: loops.Array, beta: float) -> loops.Array:
    """Add the parts' sums [parts, B, D], each brought to the highest top, in order."""
    first: loops.Array = sums[0]
    if len(sums) == 1:
        return first
    factors = np.exp(np.float32(beta) * (tops - tops.max(axis=0)))[:, :, None]
    for part in range(len(sums)):
        sums[part] *= factors[part]
        if part:
            first += sums[part]
    return first
