"""The key arena: the distinct keys of a growing codebook in one tensor, and the newest entry that holds each.

Knows sequence numbers, not entries; does not route.
"""

import hashlib
from collections.abc import Collection, Sequence
from typing import Final

import torch

from horen_vllm.errors import FailedPrecondition

NOBODY: Final = -1
"""Owner of a row that no entry holds."""

_FIRST_ROWS: Final = 256


class KeyArena:
    """Keys by row, each set of bits once, append only.

    Entries are named by their edit's sequence number. A row may be held by several entries; it belongs to the newest
    (architecture.md, *Score*: identical keys are resolved), and comes back to the older ones when that one leaves. A
    row that nobody holds stays where it is until `compact`. Holding a key costs the same however many rows there are,
    but for the doubling of the tensor, which is amortised.

    Parameters
    ----------
    d_in
        Width of a key.
    """

    def __init__(self, d_in: int) -> None:
        self._rows: dict[bytes, int] = {}  # in the order of the rows
        self._holders: list[tuple[int, ...]] = []
        self._keys = torch.empty(0, d_in)
        self._owners = torch.empty(0, dtype=torch.int64)
        self._dead = 0
        self.layout = 0
        """Changes whenever rows get other numbers."""

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def keys(self) -> torch.Tensor:
        """All rows [rows, d_in] float32, also those that nobody holds; a view."""
        return self._keys[: len(self)]

    @property
    def owners(self) -> torch.Tensor:
        """Sequence number of each row's newest holder [rows] int64, or `NOBODY`; a view."""
        return self._owners[: len(self)]

    @property
    def sparse(self) -> bool:
        """Whether most rows are held by nobody."""
        return 2 * self._dead > max(len(self), _FIRST_ROWS)

    def row(self, key: torch.Tensor) -> int | None:
        """Return the row with exactly these bits, held or not."""
        return self._rows.get(_name(key))

    def newest(self, row: int, without: Collection[int]) -> int:
        """Return whom the row would belong to if the entries `without` were not there."""
        return max((holder for holder in self._holders[row] if holder not in without), default=NOBODY)

    def hold(self, keys: torch.Tensor, sequence: int) -> tuple[int, ...]:
        """Let an entry hold keys [k, d_in] (float32) and return their rows, in order.

        Raises
        ------
        FailedPrecondition
            ``wrong_shape``, when the keys have another width.
        """
        width = self._keys.shape[1]
        if keys.ndim != 2 or keys.shape[1] != width:
            message = f"an entry has keys of shape {tuple(keys.shape)}; this codebook's are {width} wide."
            raise FailedPrecondition(message, code="wrong_shape")
        return tuple(self._hold(key, sequence) for key in keys.float())

    def release(self, rows: Sequence[int], sequence: int) -> None:
        """Take the rows of an entry from it."""
        for row in dict.fromkeys(rows):
            self._holders[row] = tuple(holder for holder in self._holders[row] if holder != sequence)
            self._owners[row] = self.newest(row, ())
            self._dead += not self._holders[row]

    def compact(self) -> list[int]:
        """Drop the rows that nobody holds; return the new number of every old row, or `NOBODY`."""
        kept = [row for row, holders in enumerate(self._holders) if holders]
        moved = [NOBODY] * len(self)
        for new, old in enumerate(kept):
            moved[old] = new
        index = torch.tensor(kept, dtype=torch.int64)
        self._keys, self._owners = self._keys[index], self._owners[index]
        self._rows = {name: moved[row] for name, row in self._rows.items() if moved[row] != NOBODY}
        self._holders = [self._holders[row] for row in kept]
        self._dead = 0
        self.layout += 1
        return moved

    def _hold(self, key: torch.Tensor, sequence: int) -> int:
        row = self._rows.setdefault(_name(key), len(self))
        if row == len(self):
            self._grow()
            self._keys[row] = key
            self._holders.append(())
            self._dead += 1
        self._dead -= not self._holders[row]
        self._holders[row] = (*(holder for holder in self._holders[row] if holder != sequence), sequence)
        self._owners[row] = self.newest(row, ())
        return row

    def _grow(self) -> None:
        used, room = len(self), len(self._owners)
        if used < room:
            return
        keys = torch.empty(max(2 * room, _FIRST_ROWS), self._keys.shape[1])
        owners = torch.empty(len(keys), dtype=torch.int64)
        keys[:used], owners[:used] = self._keys, self._owners
        self._keys, self._owners = keys, owners


def _name(key: torch.Tensor) -> bytes:
    """Return a hash of the key's bits, as the server tells identical keys."""
    return hashlib.blake2b(key.contiguous().numpy().data, digest_size=16).digest()
