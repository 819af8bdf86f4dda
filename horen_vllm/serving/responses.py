"""Decisions inside responses: ``choices[i].horen`` in JSON bodies and in the last chunk of a stream."""

import json
from typing import Any, Final

from horen_vllm.serving.decisions import DecisionSink

FIELD: Final = "horen"
_EVENT: Final = b"data: "


class ResponseWriter:
    """An ASGI ``send`` that adds the sink's decisions to what passes through it.

    A JSON body is held until it is complete, since its length changes; a stream's chunks pass at once.
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
            await self._send({**message, "body": _with_decisions_sse(message.get("body", b""), self._sink)})
        else:
            await self._on_body(message)

    async def _on_start(self, message: dict[str, Any]) -> None:
        content_type = dict(message["headers"]).get(b"content-type", b"")
        self._streaming = content_type.startswith(b"text/event-stream")
        if self._streaming:
            await self._send(message)
        else:
            self._start = message

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
    return _annotated(json.loads(content), sink)


def _with_decisions_sse(content: bytes, sink: DecisionSink) -> bytes:
    # Decisions arrive with a choice's last chunk, so all chunks before it pass without being parsed.
    if not sink.by_choice or b'"finish_reason":' not in content:
        return content
    return b"\n\n".join(_event(event, sink) for event in content.split(b"\n\n"))


def _event(event: bytes, sink: DecisionSink) -> bytes:
    if not event.startswith(_EVENT + b"{"):
        return event
    chunk = json.loads(event[len(_EVENT) :])
    if not any(choice.get("finish_reason") for choice in chunk.get("choices", ())):
        return event
    return _EVENT + _annotated(chunk, sink)


def _annotated(body: Any, sink: DecisionSink) -> bytes:
    for choice in body.get("choices", ()):
        decision = sink.by_choice.get(choice["index"])
        if decision is not None:
            choice[FIELD] = decision
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
