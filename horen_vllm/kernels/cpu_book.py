"""The keys of one revision on a CPU: scored, and added up with their weights, in one reading.

How the keys are cut into parts is a function of their number and width alone, and each part's numbers are of one order,
so a row's result has the same bits in every batch and with any number of threads.
Shapes: B queries, N keys of the revision, P rows of the key buffer, D width, E entries, k places.
"""

from typing import Final

import numpy as np
import torch

from horen_vllm.kernels.cpu_compile import Array
from horen_vllm.kernels.cpu_keys import TOGETHER, score_keys, sweep_keys
from horen_vllm.kernels.cpu_rows import join_parts
from horen_vllm.kernels.cpu_threads import in_parallel

_PART: Final = 1 << 22
"""Numbers in a part at least: less is done before another thread has begun."""
_PARTS: Final = 16
"""More would take long to add up."""
_GENTLE: Final = 30.0
"""Largest beta at which ``exp(beta (s - _TOP))``, times a key's number, keeps its precision in fp32 for any cosine."""
_TOP: Final = 1.001
"""Above any cosine, with what the rounding of its vectors and products adds."""


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

    def scores(self, queries: Array, places: Array | None = None) -> Array:
        """Return the scores [B, k] of some keys, or of all: each the same bits in every call that asks for it.

        Parameters
        ----------
        queries
            [B, D] float32.
        """
        rows = self._rows if places is None else self._rows[places]
        scores, starts = np.empty((len(queries), len(rows)), np.float32), self._starts(len(rows))

        def work(part: int) -> None:
            score_keys(queries, self._keys, rows, starts[part], starts[part + 1], scores)

        in_parallel(work, len(starts) - 1)
        return scores

    def sweep(self, queries: Array, beta: float) -> tuple[Array, Array]:
        """Return the scores [B, N] and ``pK`` [B, D], the latter but for a factor.

        Parameters
        ----------
        queries
            [B, D] float32.
        """
        scores, starts = np.empty((len(queries), len(self._rows)), np.float32), self._starts(len(self._rows))
        sums = np.zeros((len(starts) - 1, *queries.shape), np.float32)
        tops = np.full(sums.shape[:2], _TOP if beta <= _GENTLE else -np.inf, np.float32)

        def work(part: int) -> None:
            ends = starts[part], starts[part + 1]
            sweep_keys(queries, self._keys, self._rows, np.float32(beta), *ends, scores, sums[part], tops[part])

        in_parallel(work, len(starts) - 1)
        return scores, join_parts(sums, tops, scores.max(axis=1), np.float32(beta))

    def _starts(self, count: int) -> list[int]:
        """Return where the parts of so many keys begin, and where the last one ends."""
        parts = min(_PARTS, max(1, count * self._keys.shape[1] // _PART))
        blocks = -(-count // TOGETHER)
        return [min(count, part * blocks // parts * TOGETHER) for part in range(parts + 1)]
