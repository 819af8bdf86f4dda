"""ASGI middleware: turns ``model: "NAME@CODEBOOK"`` into a tagged request and reports what fired."""

import json
from collections.abc import Callable
from typing import Any, Final

from horen_vllm.errors import HorenError, InvalidArgument
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.decisions import DecisionSink, current_sink
from horen_vllm.serving.problem import send_problem
from horen_vllm.serving.requests import parse_body, tag_for, with_tag
from horen_vllm.serving.responses import ResponseWriter

_JSON: Final = b"application/json"
_FORMS: Final = (b"multipart/form-data", b"application/x-www-form-urlencoded")


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
        if served is None or not _may_carry_json(scope):
            await self._app(scope, receive, send)
            return
        content = await _read_all(receive)
        if content is None:
            return
        try:
            body = _parsed(scope, content)
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


def _may_carry_json(scope: dict[str, Any]) -> bool:
    # By exclusion: a spelling of the media type that only we do not know would bypass the rules.
    return scope["type"] == "http" and scope["method"] == "POST" and not _content_type(scope).startswith(_FORMS)


def _content_type(scope: dict[str, Any]) -> bytes:
    # The first of several, as the application behind reads it.
    return next((bytes(value).lower() for name, value in scope["headers"] if name == b"content-type"), b"")


def _parsed(scope: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Return the JSON object of a request; empty where there is none and none was announced."""
    try:
        return parse_body(content)
    except InvalidArgument:
        if content and _content_type(scope).startswith(_JSON):
            raise
        return {}


async def _read_all(receive: Any) -> bytes | None:
    """Return the request's body; None when the client went away before its end."""
    content = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
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
