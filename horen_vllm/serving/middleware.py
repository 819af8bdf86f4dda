"""ASGI middleware: turns ``model: "NAME@CODEBOOK"`` into a tagged request and reports what fired."""

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from horen_vllm.errors import HorenError, InvalidArgument
from horen_vllm.ids import TenantId
from horen_vllm.serving.auth import invalid_key
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.decisions import DecisionSink, current_sink
from horen_vllm.serving.explain import entries_wanted
from horen_vllm.serving.metrics import ServingMetrics
from horen_vllm.serving.problem import send_problem
from horen_vllm.serving.requests import CHAT_PATH, EDITABLE_PATHS, parse_body, tag_for, with_tag
from horen_vllm.serving.responses import ResponseWriter
from horen_vllm.serving.routes import route_path
from horen_vllm.serving.spans import RequestSpan
from horen_vllm.serving.tenant import current_tenant

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
    metrics
        Where requests for codebooks are counted.
    isolate
        Takes out of a body what could reach another tenant's data; None where there is one tenant only.
    """

    def __init__(
        self,
        app: Any,
        served: Callable[[], ServedCodebooks | None],
        metrics: ServingMetrics | None = None,
        isolate: Callable[[dict[str, Any], TenantId], dict[str, Any]] | None = None,
    ) -> None:
        self._app = app
        self._served = served
        self._metrics = metrics
        self._isolate = isolate

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one connection."""
        served = self._served()
        if served is None or not self._may_carry_json(scope):
            await self._app(scope, receive, send)
            return
        content = await _read_all(receive)
        if content is None:
            return
        body: dict[str, Any] = {}
        try:
            body = self._parsed(scope, content)
            tag = tag_for(route_path(scope), body, served, current_tenant())
            passed = self._isolated(scope, body)
        except HorenError as error:
            self._counted(DecisionSink(str(body.get("model"))), served).refuse(error)
            await send_problem(error, send)
            return
        if tag is not None:
            passed = with_tag(passed, replace(tag, explain=entries_wanted.get()))
        if passed is not body:
            content = json.dumps(passed).encode()
            scope = _with_length(scope, len(content))
        if tag is None:
            await self._app(scope, _replay(content, receive), send)
            return
        span = RequestSpan(served.span_mode(tag.codebook), chat=route_path(scope) == CHAT_PATH)
        sink = self._counted(DecisionSink(model=body["model"], span=span), served)
        token = current_sink.set(sink)
        try:
            await self._app(scope, _replay(content, receive), ResponseWriter(send, sink))
        finally:
            current_sink.reset(token)

    def _counted(self, sink: DecisionSink, served: ServedCodebooks) -> DecisionSink:
        """Let the metrics see what becomes of a request; one that only asks for an explanation is nobody's traffic."""
        metrics, name = self._metrics, served.labelled(sink.model, current_tenant())
        if metrics is not None and name is not None and not entries_wanted.get():
            sink.observe = metrics.observe
            sink.refused = functools.partial(metrics.refused, name)
        return sink

    def _may_carry_json(self, scope: dict[str, Any]) -> bool:
        if scope["type"] != "http" or scope["method"] != "POST":
            return False
        if self._isolates(scope):
            return True
        if self._isolate is not None and current_tenant() is None:
            # A route for anyone: no model runs behind it, and nobody has earned a place in memory.
            return False
        # By exclusion: a spelling of the media type that only we do not know would bypass the rules.
        return not _content_type(scope).startswith(_FORMS)

    def _isolates(self, scope: dict[str, Any]) -> bool:
        return self._isolate is not None and route_path(scope) in EDITABLE_PATHS

    def _parsed(self, scope: dict[str, Any], content: bytes) -> dict[str, Any]:
        """Return the JSON object of a request; empty where there is none and none was announced or needed."""
        try:
            return parse_body(content)
        except InvalidArgument:
            if self._isolates(scope) or (content and _content_type(scope).startswith(_JSON)):
                raise
            return {}

    def _isolated(self, scope: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        """Return what may pass of a body: the same object where there is nothing to keep apart."""
        tenant = current_tenant()
        if self._isolate is None or not self._isolates(scope):
            return body
        if tenant is None:
            raise invalid_key()
        return self._isolate(body, tenant)


def _content_type(scope: dict[str, Any]) -> bytes:
    # The first of several, as the application behind reads it.
    return next((bytes(value).lower() for name, value in scope["headers"] if name == b"content-type"), b"")


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
    replaced = (b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in replaced]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}
