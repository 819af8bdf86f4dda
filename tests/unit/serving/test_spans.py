"""Where a request's query span comes from in the middleware, and how a refusal behind it is answered."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from horen_vllm.core.presets import SpanMode
from horen_vllm.errors import HorenError, InvalidArgument
from horen_vllm.serving.auth import OneTenant
from horen_vllm.serving.decisions import current_sink
from horen_vllm.serving.middleware import CodebookMiddleware
from horen_vllm.serving.responses import answer_refusal
from horen_vllm.serving.spans import RequestSpan
from tests.unit.serving.doubles import Clock, book_of, served_books


def ask(app: Any, path: str, body: dict[str, Any]) -> httpx.Response:
    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return await client.post(path, json=body)

    return asyncio.run(call())


@pytest.mark.parametrize("mode", list(SpanMode))
@pytest.mark.parametrize(("path", "chat"), [("/v1/completions", False), ("/v1/chat/completions", True)])
def test_the_span_follows_from_codebook_and_route(mode: SpanMode, path: str, chat: bool) -> None:
    clock = Clock()
    served = served_books(clock=clock)
    served.show([book_of("other"), book_of("facts", mode)], confirmed_at=clock())
    spans: list[RequestSpan] = []
    app = FastAPI()

    @app.post(path)
    async def answer() -> dict[str, Any]:
        sink = current_sink.get()
        assert sink is not None
        spans.append(sink.span)
        return {}

    assert ask(OneTenant(CodebookMiddleware(app, lambda: served)), path, {"model": "base@facts"}).status_code == 200
    assert spans == [RequestSpan(mode, chat)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_behind_the_middleware_is_an_error_of_ours(stream: bool) -> None:
    served, app = served_books("facts"), FastAPI()
    app.add_middleware(CodebookMiddleware, served=lambda: served)
    app.add_middleware(OneTenant)
    app.add_exception_handler(HorenError, answer_refusal)

    @app.post("/v1/chat/completions")
    async def refuse() -> None:
        raise InvalidArgument("no user message.", code="no_user_message")

    response = ask(app, "/v1/chat/completions", {"model": "base@facts", "messages": [], "stream": stream})
    assert response.status_code == 400
    error = {"message": "no user message.", "type": "InvalidArgument", "param": None, "code": "no_user_message"}
    assert response.json() == {"error": error}
