"""The process that packs large updates: started with the first, kept for the next, ended when none comes for long."""

import asyncio
import contextlib
import os
import sys
from typing import Final

from horen_vllm.errors import Internal

IDLE_S: Final = 30.0
"""Seconds without an update after which the process ends: starting one costs seconds, keeping one 200 MB."""
_MOST_BYTES: Final = 1 << 26
"""Of an answer, which has the token ids of a few probes."""


class PackingProcess:
    """A process that answers one order at a time; it ends with this one, however that ends, since its stdin does.

    Parameters
    ----------
    idle_s
        Seconds that it waits for another order.
    """

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        # A second large update would only compete with the first for the same idle cycles and memory.
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self._process is None else self._process.pid

    async def ask(self, order: str) -> str:
        """Return the answer to an order; both are JSON without a line break.

        Raises
        ------
        Internal
            When the process ends instead of answering.
        """
        async with self._turn:
            process = await self._living()
            try:
                answer = await _answer(process, order)
            except BaseException:
                # What it is doing is nobody's any more, and its answer must not be taken for the next one's.
                await self._kill(process)
                raise
            self._ending = asyncio.create_task(self._end_when_idle())
            return answer

    async def aclose(self) -> None:
        """End the process, whatever it is doing."""
        if self._ending is not None:
            self._ending.cancel()
        if self._process is not None:
            await self._kill(self._process)

    async def _living(self) -> asyncio.subprocess.Process:
        if self._ending is not None:
            self._ending.cancel()
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "horen_vllm.serving.packing"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                limit=_MOST_BYTES,
            )
        return self._process

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        self._process = None
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _end_when_idle(self) -> None:
        await asyncio.sleep(self._idle_s)
        process, self._process = self._process, None
        if process is not None:
            await self._kill(process)


async def _answer(process: asyncio.subprocess.Process, order: str) -> str:
    assert process.stdin is not None, "it was started with pipes"
    assert process.stdout is not None, "it was started with pipes"
    with contextlib.suppress(ConnectionError):  # it has ended: then there is no answer either
        process.stdin.write(order.encode() + b"\n")
        await process.stdin.drain()
    answer = await process.stdout.readline()
    if not answer.endswith(b"\n"):
        status = await process.wait()
        message = f"the process that packs an update ended with status {status}; its stderr has the reason."
        raise Internal(message)
    return answer.decode()
