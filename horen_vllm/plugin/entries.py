"""Entries on the device: keys and values in paged, preallocated buffers, each entry's rows written once.

Every revision that contains an entry shares its rows; they are freed when the last such revision is gone.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from horen_vllm.core.paging import RowAllocator
from horen_vllm.errors import FailedPrecondition
from horen_vllm.pack import EntryPack, PackRow
from horen_vllm.plugin.breath import breathing

_PIECE_BYTES: Final = 1 << 19
"""Largest copy in one go: a longer one would delay the engine step that runs beside it."""


@dataclass(slots=True)
class ResidentEntry:
    """An entry whose keys and values stand in the buffers."""

    row: PackRow
    key_row: int
    """First row of the key buffer that is the entry's."""
    value_row: int
    """First row of the value buffer that is the entry's."""
    references: int = 0
    """Revisions, staged ones among them, that contain the entry."""


class EntryStore:
    """The buffers of one rank and who owns their rows. Safe for use from the staging thread and the engine's.

    Parameters
    ----------
    d_in, d_out
        Widths of the site's input on this rank and of its output.
    num_keys, num_values
        Rows of the key buffer (float32) and of the value buffer (`dtype`).
    shard
        (rank, ranks): the slice of a key's width that this rank holds.
    poison
        Whether rows that belong to nobody hold NaN, so that a read of them cannot go unseen.
    """

    def __init__(
        self,
        *,
        d_in: int,
        d_out: int,
        num_keys: int,
        num_values: int,
        dtype: torch.dtype,
        device: torch.device,
        shard: tuple[int, int] = (0, 1),
        poison: bool = False,
    ) -> None:
        self.keys = torch.zeros(num_keys, d_in, dtype=torch.float32, device=device)
        self.values = torch.zeros(num_values, d_out, dtype=dtype, device=device)
        if poison:
            self.keys.fill_(torch.nan)
            self.values.fill_(torch.nan)
        self._key_rows = RowAllocator(num_keys)
        self._value_rows = RowAllocator(num_values)
        self._shard = shard
        self._poison = poison
        self._lock = threading.Lock()

    def pages(self) -> dict[str, dict[str, int]]:
        """Return used, free and budgeted rows of both buffers."""
        with self._lock:
            return {name: _usage(rows) for name, rows in (("keys", self._key_rows), ("values", self._value_rows))}

    def check_widths(self, pack: EntryPack) -> None:
        """Refuse entries that do not fit this model (FailedPrecondition ``wrong_shape``)."""
        width = self.keys.shape[1] * self._shard[1]
        if pack.rows and (pack.keys.shape[1] != width or pack.values.shape[1] != self.values.shape[1]):
            message = (
                f"keys are {pack.keys.shape[1]} and values {pack.values.shape[1]} wide; "
                f"the site has {width} and {self.values.shape[1]}."
            )
            raise FailedPrecondition(message, code="wrong_shape")

    def place(self, row: PackRow) -> ResidentEntry:
        """Take free rows for one entry; `write` fills them.

        Raises
        ------
        FailedPrecondition
            ``capacity_exhausted``; nothing is taken then.
        """
        with self._lock:
            key_row = self._key_rows.allocate(row.keys)
            try:
                value_row = self._value_rows.allocate(row.values)
            except FailedPrecondition:
                self._key_rows.free(key_row)
                raise
        return ResidentEntry(row, key_row, value_row)

    def write(self, keys: "RowWriter", values: "RowWriter") -> None:
        """Copy what the writers have collected into the buffers."""
        first = self._shard[0] * self.keys.shape[1]
        keys.copy_into(self.keys, slice(first, first + self.keys.shape[1]))
        values.copy_into(self.values, slice(None))

    def retain(self, entry: ResidentEntry) -> None:
        """Note one more revision that contains the entry."""
        with self._lock:
            entry.references += 1

    def release(self, entries: Iterable[ResidentEntry]) -> None:
        """Note that one revision with these entries is gone, and free what no other has."""
        for entry in entries:
            with self._lock:
                entry.references -= 1
                if entry.references <= 0:
                    self._free(entry)

    def _free(self, entry: ResidentEntry) -> None:
        if self._poison:
            self.keys[entry.key_row : entry.key_row + entry.row.keys] = torch.nan
            self.values[entry.value_row : entry.value_row + entry.row.values] = torch.nan
        self._key_rows.free(entry.key_row)
        self._value_rows.free(entry.value_row)


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


def _usage(rows: RowAllocator) -> dict[str, int]:
    return {"used": rows.capacity - rows.num_free, "free": rows.num_free, "budget": rows.capacity}
