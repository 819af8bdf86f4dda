"""Live updates in one API server: it is the engine's agent, or follows the one that is and stands by.

Followers only need what a request is tagged with: a codebook's name, window ratio and span, and whether the control
plane is heard. That is enough for the rule that nothing rolled back fires after SERVING: the revision is the engine's
to choose, at the request's first step, for whichever API server it came through. The rest is a matter of names, and a
follower looks at the agent's file before it reads its table for a request, so it knows every name that the agent had
when it sent the heartbeat.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from horen_vllm.serving.codebooks import ServedCodebook, ServedCodebooks
from horen_vllm.serving.election import Election
from horen_vllm.serving.state import AgentState, StateFile

STAND_BY_S: Final = 0.25
"""Time between two tries to become the agent, in seconds."""

Lead = Callable[[AgentState | None, Callable[[AgentState], None]], Awaitable[None]]
"""Is the agent until cancelled: from the state that the last one left, publishing each new one."""

log = structlog.get_logger(__name__)


class LiveUpdates:
    """One API server's part in keeping its engine up to date.

    Parameters
    ----------
    election
        Decides which of the engine's API servers is the agent.
    file
        Where the agent's state is.
    served
        This server's table.
    lead
        Is the agent.
    """

    def __init__(self, *, election: Election, file: StateFile, served: ServedCodebooks, lead: Lead) -> None:
        self._election = election
        self._file = file
        self._served = served
        self._lead = lead
        self._state: AgentState | None = None
        self._ready = asyncio.Event()
        self.leading = False
        """Whether this server is the agent."""

    @property
    def state(self) -> AgentState:
        """What the agent knows, as of now."""
        self._look()
        return self._state or AgentState()

    async def run(self) -> None:
        """Stand by until elected, then be the agent; until cancelled."""
        self._served.refresh_by(self._look)
        with self._election:
            while not self._election.won():
                self._look()
                await asyncio.sleep(STAND_BY_S)
            self._look()
            self.leading = True
            log.info("this API server is the engine's agent")
            while True:
                try:
                    await self._lead(self._state, self._publish)
                except Exception:  # without an agent the engine would go stale for good
                    log.exception("the agent failed")
                await asyncio.sleep(STAND_BY_S)

    async def wait_ready(self, timeout_s: float) -> bool:
        """Return True once the revisions that were current at the start are served; False after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            return False
        return True

    def _publish(self, state: AgentState) -> None:
        self._adopt(state)
        self._file.write(state)

    def _look(self) -> None:
        # The agent's own table is newer than its file.
        if not self.leading and (state := self._file.changed()) is not None:
            self._adopt(state)

    def _adopt(self, state: AgentState) -> None:
        self._state = state
        served = [
            ServedCodebook(
                name=name,
                revision=it.applied,
                window_ratio=it.parameters.window_ratio,
                span=it.parameters.span,
                behind=it.applied < it.owed,
            )
            for name, it in state.codebooks.items()
            if (it.applied or it.owed) and it.parameters
        ]
        self._served.show(served, confirmed_at=state.confirmed_at)
        if state.ready and state.confirmed_at is not None:
            self._ready.set()
