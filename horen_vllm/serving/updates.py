"""One update's way into the engine: packed, staged, flipped; whatever stops it leaves nothing behind."""

import asyncio
import uuid
from collections.abc import Callable

import structlog

from horen_vllm.control.messages import DeltaView
from horen_vllm.failpoints import failpoint
from horen_vllm.serving.engine import Engine
from horen_vllm.serving.packer import Packer
from horen_vllm.serving.packing import PackedUpdate

log = structlog.get_logger(__name__)


class Updates:
    """Brings updates into an engine, several codebooks at a time.

    Parameters
    ----------
    engine
        Where they go.
    packer
        What makes their packs.
    changed
        Called whenever `tickets` changes, so that a successor can learn what to free.
    """

    def __init__(self, engine: Engine, packer: Packer, *, changed: Callable[[], None]) -> None:
        self._engine = engine
        self._packer = packer
        self._changed = changed
        self._tickets: set[str] = set()

    @property
    def tickets(self) -> tuple[str, ...]:
        """Updates on their way."""
        return tuple(sorted(self._tickets))

    async def apply(self, delta: DeltaView) -> PackedUpdate:
        """Make every worker serve `delta`; raises as `Packer.pack`, `Engine.stage` and `Engine.flip`."""
        ticket = uuid.uuid4().hex
        packed = None
        try:
            packed = await self._packer.pack(delta, ticket)
            self._tickets.add(ticket)
            self._changed()
            await self._engine.stage(delta, packed, ticket)
            failpoint("replica.before_flip")
            await self._engine.flip(ticket)
            failpoint("replica.after_flip")
        except BaseException:
            if packed is not None:
                await asyncio.shield(self._free(ticket))
            raise
        finally:
            self._packer.remove(ticket)
            self._tickets.discard(ticket)
        return packed

    async def clear(self, tickets: tuple[str, ...]) -> None:
        """Free what a dead agent of this engine has left."""
        self._packer.clear()
        for ticket in tickets:
            await self._free(ticket)

    async def _free(self, ticket: str) -> None:
        try:
            await self._engine.unstage(ticket)
        except Exception:  # what stopped the update is what must be told
            log.exception("freeing a staged update failed", ticket=ticket)
