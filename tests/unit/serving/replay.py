"""A real HTTP server that replays what vLLM 0.32 answered, through the response writer."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from horen_vllm.serving.decisions import DecisionSink
from horen_vllm.serving.responses import ResponseWriter
from tests.unit.serving.doubles import public

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "recorded" / "vllm-0.32.json").read_text(encoding="utf-8")
)
"""By name: path, request, content type, and the body in the parts in which it was sent."""


def decision_of(choice: int) -> dict[str, Any]:
    """Return a decision that belongs to one choice alone."""
    fired = public(edit_id=f"e{choice}" if choice % 2 == 0 else None)
    return {**fired, "score": 0.9 + choice / 100, "runner_up": "e9", "runner_up_score": 0.5, "threshold": 0.95}


class Replay:
    """ASGI application; the request's ``shape`` names a recorded answer, ``early`` gives decisions at its start.

    With ``cut`` it goes no further than the first part and waits until the client has left.
    """

    def __init__(self) -> None:
        self.left = threading.Event()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        asked = json.loads((await receive())["body"])
        shape, sink = RECORDED[asked["shape"]], DecisionSink(asked["model"])
        writer = ResponseWriter(send, sink)
        headers = [(b"content-type", shape["content_type"].encode())]
        await writer({"type": "http.response.start", "status": 200, "headers": headers})
        if asked.get("early"):
            sink.by_choice.update({choice: decision_of(choice) for choice in range(8)})
        for part in shape["parts"]:
            if '"finish_reason":"' in part:
                sink.by_choice.update({index: decision_of(index) for index in indexes_of(part)})
            await writer({"type": "http.response.body", "body": part.encode(), "more_body": True})
            while asked.get("cut"):
                if (await receive())["type"] == "http.disconnect":
                    self.left.set()
                    return
            await asyncio.sleep(0)
        await writer({"type": "http.response.body", "body": b"", "more_body": False})


def indexes_of(part: str) -> list[int]:
    """Return the finished choices of a body or an event."""
    choices = json.loads(part.removeprefix("data: "))["choices"]
    return [choice["index"] for choice in choices if choice["finish_reason"]]


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve `app` on a free port of the loopback address; yields its base URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
