"""Runs registry calls beside the event loop, and paces the calls that wait for a change.

The server is grpc.aio: a watch or a waiting sync costs a coroutine, not a thread, so any number of them leaves the
unary calls alone. Their looks at the registry have a small thread pool of their own for the same reason.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from horen_vllm.control.settings import ControlSettings
from horen_vllm.errors import Unavailable

T = TypeVar("T")


class Backend:
    """Thread pools for blocking calls, and the clock of the polling ones.

    Parameters
    ----------
    settings
        Thread counts and the polling interval.
    """

    def __init__(self, settings: ControlSettings) -> None:
        self._calls = ThreadPoolExecutor(settings.call_threads, thread_name_prefix="horen-call")
        self._polls = ThreadPoolExecutor(settings.poll_threads, thread_name_prefix="horen-poll")
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="horen-write")
        self._poll_s = settings.poll_s
        self._stopping = asyncio.Event()

    async def call(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; it may block, and knows the caller's context variables."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._calls, context.run, work)

    async def write(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; one at a time, beside all other calls."""
        return await asyncio.get_running_loop().run_in_executor(self._writes, work)

    async def poll(self, look: Callable[[], T]) -> AsyncIterator[T]:
        """Yield what `look` returns, again and again, one polling interval apart.

        Raises
        ------
        Unavailable
            ``control_stopping``, when the server stops.
        """
        while True:
            yield await asyncio.get_running_loop().run_in_executor(self._polls, look)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._poll_s)
                raise Unavailable("the control plane is stopping.", code="control_stopping")

    def stop_polling(self) -> None:
        """End every `poll`; call it from the event loop."""
        self._stopping.set()

    def close(self) -> None:
        """Wait for the running calls and release the threads."""
        self._calls.shutdown()
        self._writes.shutdown()
        self._polls.shutdown()
