"""Decisions inside responses: ``choices[i].horen`` in JSON bodies and in the last chunk of a stream."""

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from horen_vllm.errors import HorenError
from horen_vllm.serving.decisions import DecisionSink, current_sink
from horen_vllm.serving.problem import problem

FIELD: Final = "horen"
_JSON: Final = b"application/json"
_EVENT_STREAM: Final = b"text/event-stream"
_EVENT: Final = b"data: "
_END: Final = b"\n\n"
_FINISHED: Final = re.compile(rb'"finish_reason":\s*"')
"""Only a finished choice has text there, and inside a JSON text the quotes would be escaped."""


async def answer_refusal(_request: Request, error: Exception) -> JSONResponse:
    """Answer a request that was refused behind the middleware, while vLLM prepared its prompt."""
    assert isinstance(error, HorenError)
    sink = current_sink.get()
    if sink is not None:
        sink.refuse(error)
    status, body = problem(error)
    return JSONResponse(body, status_code=status)


class ResponseWriter:
    """An ASGI ``send`` that adds the sink's decisions to what passes through it.

    A JSON body is held until it is complete, since its length changes; a stream's events pass one by one, and
    everything else passes as it is.
    """

    def __init__(self, send: Any, sink: DecisionSink) -> None:
        self._send = send
        self._sink = sink
        self._start: dict[str, Any] | None = None
        self._held = bytearray()
        self._streaming = False

    async def __call__(self, message: dict[str, Any]) -> None:
        """Pass one ASGI message on."""
        if message["type"] == "http.response.start":
            await self._on_start(message)
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._streaming:
            await self._on_events(message)
        elif self._start is None:
            await self._send(message)
        else:
            await self._on_body(message)

    async def _on_start(self, message: dict[str, Any]) -> None:
        content_type = dict(message.get("headers", ())).get(b"content-type", b"").lower()
        self._streaming = content_type.startswith(_EVENT_STREAM)
        if content_type.startswith(_JSON):
            self._start = message
        else:
            await self._send(message)

    async def _on_events(self, message: dict[str, Any]) -> None:
        self._held += message.get("body", b"")
        more = message.get("more_body", False)
        # An event may come in parts: what has no end yet waits for it.
        end = self._held.rfind(_END) + len(_END) if _END in self._held else 0
        complete = bytes(self._held[:end] if more else self._held)
        del self._held[: len(complete)]
        if complete or not more:
            await self._send({**message, "body": _with_decisions_sse(complete, self._sink)})

    async def _on_body(self, message: dict[str, Any]) -> None:
        self._held += message.get("body", b"")
        if message.get("more_body", False) or self._start is None:
            return
        content = _with_decisions_json(bytes(self._held), self._sink)
        headers = [
            (name, str(len(content)).encode() if name == b"content-length" else value)
            for name, value in self._start["headers"]
        ]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": content})


def _with_decisions_json(content: bytes, sink: DecisionSink) -> bytes:
    if not sink.by_choice:
        return content
    body = json.loads(content)
    return _annotated(body, body.get("choices") or (), sink)


def _with_decisions_sse(content: bytes, sink: DecisionSink) -> bytes:
    # Cheap on purpose: with stop strings decisions come with the first token, and every chunk passes here.
    if not sink.by_choice or not _FINISHED.search(content):
        return content
    *events, rest = content.split(_END)
    return _END.join([*(_event(event, sink) for event in events), rest])


def _event(event: bytes, sink: DecisionSink) -> bytes:
    if not event.startswith(_EVENT + b"{") or not _FINISHED.search(event):
        return event
    chunk = json.loads(event[len(_EVENT) :])
    finished = [choice for choice in chunk.get("choices") or () if choice.get("finish_reason")]
    return _EVENT + _annotated(chunk, finished, sink) if finished else event


def _annotated(body: Any, choices: Iterable[Any], sink: DecisionSink) -> bytes:
    for choice in choices:
        decision = sink.by_choice.get(choice["index"])
        if decision is not None:
            choice[FIELD] = decision
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
