"""Doubles and helpers for the API-server half's tests."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from horen_vllm.core.presets import SpanMode
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.serving.codebooks import ServedCodebook, ServedCodebooks

BASES = ("base", "org/alias@v1")


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def name_of(codebook: str) -> CodebookName:
    """Return a codebook's full name."""
    return CodebookName(DEFAULT_TENANT, codebook)


def book_of(codebook: CodebookName | str, span: SpanMode = SpanMode.PROMPT) -> ServedCodebook:
    """Return a codebook as a table holds it."""
    name = name_of(codebook) if isinstance(codebook, str) else codebook
    return ServedCodebook(name=name, revision=3, window_ratio=0.5, span=span)


def served_books(*codebooks: CodebookName | str, clock: Clock | None = None, touch: bool = True) -> ServedCodebooks:
    """Return a table that answers for `codebooks`."""
    clock = clock or Clock()
    served = ServedCodebooks(BASES, stale_after_s=30.0, clock=clock)
    served.show(map(book_of, codebooks), confirmed_at=clock() if touch else None)
    return served


def decision(codebook: str = "facts", edit_id: str | None = "e1") -> dict[str, Any]:
    """Return a decision as the engine reports it."""
    return {"codebook": str(name_of(codebook)), "revision": 3, "edit_id": edit_id, "score": 0.97}


def public(codebook: str = "facts", edit_id: str | None = "e1") -> dict[str, Any]:
    """Return the same decision as a client sees it."""
    return {**decision(codebook, edit_id), "codebook": codebook, "fired": edit_id is not None}


@dataclass
class Sender:
    """An ASGI ``send`` that keeps what it is given."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        """Status of the answer."""
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        """Headers of the answer."""
        return dict(self.messages[0]["headers"])

    @property
    def bodies(self) -> list[bytes]:
        """Body messages, one by one."""
        return [message["body"] for message in self.messages if message["type"] == "http.response.body"]

    @property
    def content(self) -> bytes:
        """The whole body."""
        return b"".join(self.bodies)


def receiver(*parts: bytes, disconnect: bool = False) -> Any:
    """Return an ASGI ``receive`` for a body in `parts`; `disconnect` cuts it off after them."""
    pending = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if not disconnect:
        pending[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        return pending.pop(0) if pending else {"type": "http.disconnect"}

    return receive


def http_scope(
    path: str = "/v1/completions",
    *,
    method: str = "POST",
    content_types: Sequence[bytes] = (b"application/json",),
    length: int | None = None,
) -> dict[str, Any]:
    """Return an ASGI scope."""
    headers = [(b"content-type", value) for value in content_types]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}


def sse(*events: Any) -> bytes:
    """Return a stream of events."""
    return b"".join(
        b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n" for event in events
    )


def events_of(content: bytes) -> list[Any]:
    """Return the events of a stream, ``[DONE]`` as it is."""
    assert content.endswith(b"\n\n")
    texts = [part.removeprefix(b"data: ") for part in content[:-2].split(b"\n\n")]
    return [text if text == b"[DONE]" else json.loads(text) for text in texts]


async def collect(outputs: AsyncIterator[Any]) -> list[Any]:
    """Return all that an async iterator yields."""
    return [output async for output in outputs]
