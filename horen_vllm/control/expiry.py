"""Edits whose time has passed: retired within a second or so, by every control plane that runs."""

import asyncio
from functools import partial
from typing import Final

import structlog

from horen_vllm.control.backend import Backend
from horen_vllm.errors import HorenError
from horen_vllm.registry.ports import Registry

_MOST: Final = 1_000
"""Edits that are retired at once; each makes a revision."""

log = structlog.get_logger(__name__)


async def retire_expired(registry: Registry, backend: Backend, period_s: float) -> None:
    """Retire what has expired, every `period_s` seconds, until cancelled.

    Two control planes at once are harmless: the registry retires each edit once.
    """
    while True:
        try:
            retired = await backend.call(partial(registry.retire_expired, limit=_MOST))
        except HorenError as error:
            log.warning("expired edits not retired", code=error.code, reason=error.message)
            retired = 0
        else:
            if retired:
                log.info("expired edits retired", edits=retired)
        if retired < _MOST:
            await asyncio.sleep(period_s)
