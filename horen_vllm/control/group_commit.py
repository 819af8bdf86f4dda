"""Group commit: submissions that come while a transaction runs go together into the next one.

One transaction waits for the disk once, however many edits it stores; so the more come at once, the less each costs.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from horen_vllm.control.backend import Backend
from horen_vllm.control.messages import EditView
from horen_vllm.errors import HorenError
from horen_vllm.registry.submission import Submission

MOST: Final = 128
"""Submissions of one transaction: its last one waits for all of them."""

Outcome = EditView | HorenError
Store = Callable[[Sequence[Submission]], Sequence[Outcome]]
"""Stores submissions in one transaction; returns what became of each."""


class GroupCommit:
    """Stores submissions in groups, in the order in which they come, one group at a time.

    Parameters
    ----------
    store
        Blocks; is called for one group after the other.
    backend
        Where it runs.
    """

    def __init__(self, store: Store, backend: Backend) -> None:
        self._store = store
        self._backend = backend
        self._waiting: deque[tuple[Submission, asyncio.Future[Outcome]]] = deque()
        self._working: asyncio.Task[None] | None = None

    def submit(self, submission: Submission) -> asyncio.Future[Outcome]:
        """Return what becomes of a submission, once its transaction is committed.

        A future that is cancelled before its group begins is left out of it; later its edit is stored all the same.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((submission, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return future

    async def _work(self) -> None:
        try:
            while group := self._next_group():
                await self._store_group(group)
        finally:
            self._working = None

    def _next_group(self) -> list[tuple[Submission, asyncio.Future[Outcome]]]:
        group: list[tuple[Submission, asyncio.Future[Outcome]]] = []
        while self._waiting and len(group) < MOST:
            submission, future = self._waiting.popleft()
            if not future.cancelled():
                group.append((submission, future))
        return group

    async def _store_group(self, group: Sequence[tuple[Submission, asyncio.Future[Outcome]]]) -> None:
        try:
            outcomes = await self._backend.write(lambda: self._store([submission for submission, _ in group]))
        except Exception as error:  # noqa: BLE001 - every caller is to know it
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)
