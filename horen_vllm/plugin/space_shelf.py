"""Fitted routing spaces on the device: each once, however many codebooks and revisions apply it."""

import threading
from dataclasses import dataclass, replace

import torch

from horen_vllm.core.routing import RoutingSpace
from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.key_buffer import KeyBuffer
from horen_vllm.plugin.row_writer import RowWriter


@dataclass(slots=True, eq=False)
class ResidentSpace:
    """A space whose maps stand in the key buffer."""

    digest: str
    """Artifact (sha256, hex) that it came from."""
    space: RoutingSpace
    """This rank's columns, in the buffer; the words' weights are on the CPU."""
    row: int
    """Its first row of the buffer, in rows as wide as the site's input."""
    references: int = 0
    """Revisions, staged ones among them, that apply it."""


class SpaceShelf:
    """The spaces of one rank. Safe for use from several threads.

    Parameters
    ----------
    keys
        Where their maps stand, within the same budget as keys.
    d_in
        Width of the site's input on this rank.
    shard
        (rank, ranks): which columns of the maps this rank holds.
    """

    def __init__(self, keys: KeyBuffer, d_in: int, shard: tuple[int, int]) -> None:
        self._keys = keys
        self._d_in = d_in
        self._shard = shard
        self._resident: dict[str, ResidentSpace] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count the spaces that are here."""
        return len(self._resident)

    def hold(self, digest: str, given: RoutingSpace | None) -> ResidentSpace:
        """Return the space of a revision, which must `release` it; `given` is written unless it is here.

        Raises
        ------
        FailedPrecondition
            ``space_missing``, when it is neither here nor given; ``wrong_shape``; ``capacity_exhausted``.
        """
        with self._lock:
            resident = self._resident.get(digest)
            if resident is None:
                resident = self._resident[digest] = self._placed(digest, given)
            resident.references += 1
            return resident

    def release(self, resident: ResidentSpace) -> None:
        """Note that one revision in this space is gone, and free it with the last."""
        with self._lock:
            resident.references -= 1
            if resident.references == 0:
                del self._resident[resident.digest]
                self._keys.give_back(resident.row, self._d_in)

    def _placed(self, digest: str, given: RoutingSpace | None) -> ResidentSpace:
        if given is None:
            message = "the codebook's routing space is not here: the update has to bring it."
            raise FailedPrecondition(message, code="space_missing")
        self._check(given)
        rank, width = given.matrix.shape[0], self._d_in
        row, rows = self._keys.take(rank + 1, width), self._keys.rows(width)
        columns = slice(self._shard[0] * width, (self._shard[0] + 1) * width)
        for source, target in ((given.matrix, row), (given.mean[None], row + rank)):
            writer = RowWriter(source)
            writer.add(0, target, len(source))
            writer.copy_into(rows, columns)
        # Its own copy: the pack, in whose file it may lie, is removed after the update.
        rarity = given.rarity.to("cpu", torch.float32, copy=True)
        own = replace(given, mean=rows[row + rank], matrix=rows[row : row + rank], rarity=rarity)
        return ResidentSpace(digest, own, row)

    def _check(self, given: RoutingSpace) -> None:
        width = self._d_in * self._shard[1]
        fits = given.matrix.ndim == 2 and given.matrix.shape[1] == width and given.matrix.shape[0] > 0
        if not fits or given.mean.shape != (width,) or given.rarity.ndim != 1:
            shapes = f"{tuple(given.matrix.shape)} with a mean of {tuple(given.mean.shape)}"
            message = f"the routing space maps {shapes}; the site's input has {width} columns."
            raise FailedPrecondition(message, code="wrong_shape")
