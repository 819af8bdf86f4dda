"""Packs for the workers: small ones in a thread, large ones in a process of their own; none outlives its update."""

import asyncio
import time
from pathlib import Path
from typing import Final

from horen_vllm.artifacts.opening import ArtifactSource
from horen_vllm.control.messages import DeltaView
from horen_vllm.serving.packing import PackedUpdate, PackOrder, order_to_json, pack_update, packed_from_json
from horen_vllm.serving.packing_process import PackingProcess

INLINE_ENTRIES: Final = 16
"""Up to so many entries parsing costs less than starting a process, and holds the interpreter for milliseconds only."""
INLINE_SPACE_BYTES: Final = 1 << 22
"""The same for a routing space, whose file is copied and hashed."""
_SUFFIX: Final = ".pack"
_FOREIGN_AGE_S: Final = 3600.0
"""Age from which any pack is a leftover: staging is bounded far below it (`ServingSettings.stage_timeout_s`)."""


class Packer:
    """Makes and removes pack files.

    Parameters
    ----------
    artifacts
        Where the artifacts are; opened at once, so that a wrong address is known at the start.
    folder
        Where packs are written; every worker must be able to read it.
    owner
        Name of this engine, by which its packs are told from those of other servers in the same folder.
    """

    def __init__(self, *, artifacts: ArtifactSource, folder: Path, owner: str) -> None:
        self._source = artifacts
        self._artifacts = artifacts.open()
        self._folder = folder
        self._owner = owner
        self._process = PackingProcess()

    async def pack(self, delta: DeltaView, ticket: str) -> PackedUpdate:
        """Write the pack of an update; raises as `packing.pack_update`. The caller removes it (`remove`)."""
        order = PackOrder(
            artifacts=self._source,
            target=self._target(ticket).absolute(),
            fingerprint=delta.codebook.fingerprint,
            seed=f"{delta.codebook.name} {delta.revision}",
            entries=delta.added,
            # An update from nothing is for engines that may not have it.
            space=delta.codebook.parameters.space if delta.base == 0 else None,
        )
        if len(order.entries) <= INLINE_ENTRIES and await self._space_bytes(order) <= INLINE_SPACE_BYTES:
            return await asyncio.to_thread(pack_update, order, self._artifacts)
        # As text it takes a while, too.
        question = await asyncio.to_thread(order_to_json, order)
        return packed_from_json(await self._process.ask(question))

    async def aclose(self) -> None:
        """End the process for large updates, if it runs; the next one starts it again."""
        await self._process.aclose()

    def remove(self, ticket: str) -> None:
        """Remove what `pack` has written for `ticket`, if anything."""
        for path in self._folder.glob(f"{self._target(ticket).name}*"):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what a dead agent of this engine has left, and what is too old to belong to a living one of any."""
        for path in self._folder.glob(f"*{_SUFFIX}*"):
            if path.name.startswith(f"{self._owner}-") or _age_s(path) > _FOREIGN_AGE_S:
                path.unlink(missing_ok=True)

    async def _space_bytes(self, order: PackOrder) -> int:
        if order.space is None:
            return 0
        stored = await asyncio.to_thread(self._artifacts.find, order.space)
        return stored.size if stored is not None else 0

    def _target(self, ticket: str) -> Path:
        return self._folder / f"{self._owner}-{ticket}{_SUFFIX}"


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
