"""Entries on the device: keys and values in paged, preallocated buffers, each entry's rows written once.

Every revision that contains an entry shares its rows; they are freed when the last such revision is gone.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from horen_vllm.core.euclid import LIFT
from horen_vllm.core.paging import RowAllocator
from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.errors import FailedPrecondition
from horen_vllm.pack import EntryPack, PackRow
from horen_vllm.plugin.key_buffer import KeyBuffer, usage
from horen_vllm.plugin.row_writer import RowWriter
from horen_vllm.plugin.space_shelf import SpaceShelf


@dataclass(frozen=True, slots=True)
class KeyLayout:
    """How a codebook's keys stand in the key buffer."""

    width: int
    """Columns of a key that this rank holds."""
    first: int
    """The first of them."""
    whole: int
    """Columns of a key on all ranks together; where ranks share no key, those of this one."""

    @property
    def columns(self) -> slice:
        """The columns of a pack's keys that this rank holds."""
        return slice(self.first, self.first + self.width)


@dataclass(slots=True)
class ResidentEntry:
    """An entry whose keys and values stand in the buffers."""

    row: PackRow
    key_row: int
    """First row of the key buffer, in rows of `key_width`, that is the entry's."""
    key_width: int
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
    key_numbers, num_values
        Numbers (float32) in the key buffer, and rows of the value buffer (`dtype`).
    shard
        (rank, ranks): the slice of the site's input that this rank holds.
    poison
        Whether numbers that belong to nobody are NaN, so that a read of them cannot go unseen.

    Attributes
    ----------
    keys
        [key_numbers] float32: keys of all codebooks, whatever their widths, and the maps of fitted spaces.
    values
        [num_values, d_out].
    spaces
        The fitted spaces.
    """

    def __init__(
        self,
        *,
        d_in: int,
        d_out: int,
        key_numbers: int,
        num_values: int,
        dtype: torch.dtype,
        device: torch.device,
        shard: tuple[int, int] = (0, 1),
        poison: bool = False,
    ) -> None:
        self.d_in = d_in
        self._key_buffer = KeyBuffer(key_numbers, device, poison=poison)
        self.keys = self._key_buffer.numbers
        self.spaces = SpaceShelf(self._key_buffer, d_in, shard)
        self.values = torch.zeros(num_values, d_out, dtype=dtype, device=device)
        if poison:
            self.values.fill_(torch.nan)
        self._value_rows = RowAllocator(num_values)
        self._shard = shard
        self._poison = poison
        self._lock = threading.Lock()

    @property
    def ranks(self) -> int:
        """Ranks that the site's input is divided among."""
        return self._shard[1]

    def key_rows(self, width: int) -> torch.Tensor:
        """Return the key buffer as rows of `width` numbers."""
        return self._key_buffer.rows(width)

    def layout(self, parameters: MethodParameters, space: RoutingSpace | None) -> KeyLayout:
        """Return how the keys of a codebook stand: those of the identity are divided among the ranks, others not."""
        if parameters.radius is not None:
            return KeyLayout(self.d_in + LIFT, 0, self.d_in + LIFT)
        if space is not None:
            return KeyLayout(space.width, 0, space.width)
        return KeyLayout(self.d_in, self._shard[0] * self.d_in, self._shard[1] * self.d_in)

    def pages(self) -> dict[str, dict[str, int]]:
        """Return what is used, free and budgeted: numbers of the key buffer, rows of the value buffer.

        ``bytes`` is the size of one of them.
        """
        with self._lock:
            sizes = self.keys.element_size(), self.values.shape[1] * self.values.element_size()
            return {
                "keys": self._key_buffer.usage() | {"bytes": sizes[0]},
                "values": usage(self._value_rows) | {"bytes": sizes[1]},
            }

    def check_widths(self, pack: EntryPack, layout: KeyLayout) -> None:
        """Refuse entries that do not fit this model (FailedPrecondition ``wrong_shape``)."""
        d_out = self.values.shape[1]
        if pack.rows and (pack.keys.shape[1] != layout.whole or pack.values.shape[1] != d_out):
            message = (
                f"keys are {pack.keys.shape[1]} and values {pack.values.shape[1]} wide; "
                f"the codebook's keys have {layout.whole} columns here, and the site's output {d_out}."
            )
            raise FailedPrecondition(message, code="wrong_shape")

    def place(self, row: PackRow, layout: KeyLayout) -> ResidentEntry:
        """Take free rows for one entry; `write` fills them.

        Raises
        ------
        FailedPrecondition
            ``capacity_exhausted``; nothing is taken then.
        """
        with self._lock:
            key_row = self._key_buffer.take(row.keys, layout.width)
            try:
                value_row = self._value_rows.allocate(row.values)
            except FailedPrecondition:
                self._key_buffer.give_back(key_row, layout.width)
                raise
        return ResidentEntry(row, key_row, layout.width, value_row)

    def write(self, keys: RowWriter, values: RowWriter, layout: KeyLayout) -> None:
        """Copy what the writers have collected into the buffers."""
        keys.copy_into(self.key_rows(layout.width), layout.columns)
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
            self.values[entry.value_row : entry.value_row + entry.row.values] = torch.nan
        self._key_buffer.give_back(entry.key_row, entry.key_width)
        self._value_rows.free(entry.value_row)
