"""One API server of an engine, as a process: ``python standby.py FOLDER NAME``; the agent publishes for ever."""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import CodebookName
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.election import Election
from horen_vllm.serving.live import LiveUpdates
from horen_vllm.serving.state import AgentState, CodebookState, StateFile

BOOK = CodebookName.parse("tenants/default/codebooks/a")
PARAMETERS = MethodParameters(preset="cosine", threshold=0.9, window_ratio=0.25)


def live(folder: Path, name: str) -> tuple[LiveUpdates, ServedCodebooks]:
    """Return one server's part; as the agent it counts revisions up, and says its name as the ticket."""

    async def lead(state: AgentState | None, publish: Callable[[AgentState], None]) -> None:
        state = replace(state or AgentState(), ready=True, tickets=(name,))
        while True:
            codebook = state.codebooks.get(BOOK, CodebookState(parameters=PARAMETERS))
            moved = replace(codebook, applied=codebook.applied + 1, latest=codebook.applied + 1)
            state = replace(state, codebooks={BOOK: moved}, confirmed_at=time.monotonic())
            publish(state)
            await asyncio.sleep(0.01)

    served = ServedCodebooks(("base",), stale_after_s=30.0)
    return LiveUpdates(election=Election(folder), file=StateFile(folder), served=served, lead=lead), served


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), sys.argv[2])[0].run())
