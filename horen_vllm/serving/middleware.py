"""ASGI middleware: turns ``model: "NAME@CODEBOOK"`` into a tagged request and reports what fired."""

import json
from collections.abc import Callable
from typing import Any, Final

from horen_vllm.errors import HorenError
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.decisions import DecisionSink, current_sink
from horen_vllm.serving.problem import send_problem
from horen_vllm.serving.requests import parse_body, tag_for, with_tag
from horen_vllm.serving.responses import ResponseWriter

_JSON: Final = b"application/json"


class CodebookMiddleware:
    """Pure ASGI, so that streams pass unbuffered and context variables reach the handlers.

    Parameters
    ----------
    app
        The application behind.
    served
        Returns the server's table of codebooks; None until it is ready.
    """

    def __init__(self, app: Any, served: Callable[[], ServedCodebooks | None]) -> None:
        self._app = app
        self._served = served

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one connection."""
        served = self._served()
        if served is None or not _carries_json(scope):
            await self._app(scope, receive, send)
            return
        content = await _read_all(receive)
        try:
            body = parse_body(content)
            tag = tag_for(scope["path"], body, served)
        except HorenError as error:
            await send_problem(error, send)
            return
        if tag is None:
            await self._app(scope, _replay(content, receive), send)
            return
        content = json.dumps(with_tag(body, tag)).encode()
        sink = DecisionSink(model=body["model"])
        token = current_sink.set(sink)
        try:
            await self._app(_with_length(scope, len(content)), _replay(content, receive), ResponseWriter(send, sink))
        finally:
            current_sink.reset(token)


def _carries_json(scope: dict[str, Any]) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    return bool(dict(scope["headers"]).get(b"content-type", _JSON).startswith(_JSON))


async def _read_all(receive: Any) -> bytes:
    content = bytearray()
    while True:
        message = await receive()
        content += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(content)


def _replay(content: bytes, receive: Any) -> Any:
    pending = [{"type": "http.request", "body": content, "more_body": False}]

    async def replayed() -> Any:
        return pending.pop() if pending else await receive()

    return replayed


def _with_length(scope: dict[str, Any], length: int) -> dict[str, Any]:
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}
