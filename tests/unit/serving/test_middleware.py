"""The middleware over a real application: what it lets pass, what it refuses and what it adds."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from horen_vllm.plugin.tag import CODEBOOK_KEY, RATIO_KEY
from horen_vllm.serving.auth import OneTenant
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.decisions import current_sink
from horen_vllm.serving.middleware import CodebookMiddleware
from tests.unit.serving.doubles import (
    Clock,
    Sender,
    decision,
    events_of,
    http_scope,
    name_of,
    public,
    receiver,
    served_books,
    sse,
)

PATH = "/v1/completions"


class Echo:
    """An application that keeps what reaches it and answers as vLLM would."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.lengths: list[str | None] = []
        self.app = FastAPI()
        self.app.add_api_route(PATH, self.complete, methods=["POST"])
        self.app.add_api_route("/{path:path}", self.other, methods=["GET", "HEAD", "OPTIONS", "PUT", "POST"])

    async def complete(self, request: Request) -> Response:
        body = await self._take(request)
        sink = current_sink.get()
        await asyncio.sleep(0)
        if sink is not None and body["prompt"] != "undecided":
            sink.by_choice.update({index: public(edit_id=body["prompt"]) for index in range(body.get("n", 1))})
        if body.get("stream"):
            return StreamingResponse(self._stream(body), media_type="text/event-stream")
        if body["prompt"] == "missing":
            return JSONResponse({"error": {"code": 404}}, status_code=404)
        choices = [{"index": index, "text": body["prompt"]} for index in range(body.get("n", 1))]
        return JSONResponse({"choices": choices, "model": sink.model if sink else "base"})

    async def other(self, request: Request) -> Response:
        await self._take(request)
        return Response(b"other", media_type="text/plain")

    async def _take(self, request: Request) -> Any:
        content = await request.body()
        self.bodies.append(content)
        self.lengths.append(request.headers.get("content-length"))
        return json.loads(content) if request.url.path == PATH else None

    async def _stream(self, body: dict[str, Any]) -> Any:
        for finish in (None, "stop"):
            await asyncio.sleep(0)
            yield sse({"choices": [{"index": 0, "text": body["prompt"], "finish_reason": finish}]})
        yield sse({"choices": [], "usage": {}}, b"[DONE]")


class Server:
    """The application behind the middleware."""

    def __init__(self, served: ServedCodebooks | None) -> None:
        self.echo = Echo()
        self.asgi: Any = OneTenant(CodebookMiddleware(self.echo.app, served=lambda: served))

    async def request_async(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self.request_async(method, path, **options))

    def complete(self, model: str, prompt: str = "hi", **body: Any) -> httpx.Response:
        return self.request("POST", PATH, json={"model": model, "prompt": prompt, **body})

    def raw(self, scope: dict[str, Any], receive: Any) -> Sender:
        sender = Sender()
        asyncio.run(self.asgi(scope, receive, sender))
        return sender


@pytest.fixture
def server() -> Server:
    return Server(served_books("facts", "more"))


def test_a_codebooks_answer_says_what_fired_in_every_choice(server: Server) -> None:
    answer = server.complete("base@facts", "e7", n=3)
    assert answer.status_code == 200
    assert [choice["horen"] for choice in answer.json()["choices"]] == [public(edit_id="e7")] * 3
    assert answer.json()["model"] == "base@facts"
    assert answer.headers["content-length"] == str(len(answer.content))


def test_the_application_gets_the_tag_the_clean_name_and_the_right_length(server: Server) -> None:
    server.complete("org/alias@v1@facts", "hi", vllm_xargs={"mine": 1})
    body = json.loads(server.echo.bodies[0])
    assert body["model"] == "org/alias@v1"
    assert body["vllm_xargs"] == {"mine": 1, CODEBOOK_KEY: str(name_of("facts")), RATIO_KEY: 0.5}
    assert server.echo.lengths == [str(len(server.echo.bodies[0]))]


def test_a_stream_says_what_fired_at_its_end(server: Server) -> None:
    answer = server.complete("base@facts", "e1", stream=True)
    first, last, usage, done = events_of(answer.content)
    assert "horen" not in first["choices"][0]
    assert last["choices"][0]["horen"] == public(edit_id="e1")
    assert (usage["choices"], done) == ([], b"[DONE]")


@pytest.mark.parametrize("prompt", ["missing", "undecided"])
def test_an_answer_without_a_decision_passes_as_it_is(server: Server, prompt: str) -> None:
    answer = server.complete("base@facts", prompt) if prompt != "missing" else server.complete("base", prompt)
    assert answer.status_code == (404 if prompt == "missing" else 200)
    assert "horen" not in answer.text


def test_an_error_of_the_application_passes_even_with_a_decision(server: Server) -> None:
    answer = server.complete("base@facts", "missing")
    assert (answer.status_code, answer.json()) == (404, {"error": {"code": 404}})


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"])
def test_a_clean_request_passes_byte_for_byte(server: Server, content_type: str) -> None:
    content = b'{ "model" : "base",   "prompt":"\\u00fc" }'
    answer = server.request("POST", PATH, content=content, headers={"content-type": content_type})
    assert server.echo.bodies == [content]
    assert answer.json() == {"choices": [{"index": 0, "text": "ü"}], "model": "base"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
def test_other_methods_pass_unread(server: Server, method: str) -> None:
    content = b'{"vllm_xargs": {"horen_codebook": 1}, not json'
    headers = {"content-type": "application/json"}
    assert server.request(method, "/v1/models", content=content, headers=headers).status_code == 200
    assert server.echo.bodies == [content]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", None),
        (b"", "application/json"),
        (b"not json", None),
        (b"not json", "text/plain"),
        (b"a=1", "application/x-www-form-urlencoded"),
        (b"--x--", "multipart/form-data; boundary=x"),
    ],
)
def test_a_post_that_announces_no_json_passes(server: Server, content: bytes, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = server.request("POST", "/reset_prefix_cache", content=content, headers=headers)
    assert answer.text == "other"
    assert server.echo.bodies == [content]


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_malformed_body_is_refused(server: Server, content: bytes) -> None:
    answer = server.request("POST", PATH, content=content, headers={"content-type": "Application/Json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_json")
    assert server.echo.bodies == []


REFUSED = [
    ("base@nobody", {}, 404, "unknown_codebook"),
    ("base@facts", {"use_beam_search": True}, 400, "unsupported_parameter"),
    ("base@facts", {"vllm_xargs": [["horen_codebook", 1]]}, 400, "unsupported_parameter"),
    ("base", {"vllm_xargs": {"horen_codebook": "tenants/other/codebooks/x"}}, 400, "reserved_field"),
]


@pytest.mark.parametrize(("model", "extra", "status", "code"), REFUSED)
def test_a_refused_request_never_reaches_the_application(
    server: Server, model: str, extra: dict[str, Any], status: int, code: str
) -> None:
    answer = server.complete(model, **extra)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert server.echo.bodies == []


@pytest.mark.parametrize(
    "content_types",
    [[b"APPLICATION/JSON"], [b"application/json", b"multipart/form-data"], [b"application/a+json"], [b"text/x"], []],
)
def test_no_spelling_of_the_media_type_hides_a_reserved_field(server: Server, content_types: list[bytes]) -> None:
    content = b'{"model": "base", "prompt": "hi", "vllm_xargs": {"horen_codebook": "x"}}'
    sender = server.raw(http_scope(content_types=content_types), receiver(content))
    assert (sender.status, json.loads(sender.content)["error"]["code"]) == (400, "reserved_field")


def test_a_codebook_on_another_route_is_refused(server: Server) -> None:
    answer = server.request("POST", "/v1/responses", json={"model": "base@facts"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_endpoint")


def test_a_stale_server_refuses_codebooks_and_serves_the_clean_model() -> None:
    clock = Clock()
    server = Server(served_books("facts", clock=clock))
    clock.now += 31.0
    answer = server.complete("base@facts")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "replica_stale")
    assert server.complete("base").status_code == 200


def test_before_the_table_exists_everything_passes() -> None:
    server = Server(None)
    assert server.complete("base@facts").json()["model"] == "base"


def test_a_body_in_several_messages_is_read_whole(server: Server) -> None:
    content = json.dumps({"model": "base@facts", "prompt": "e3"}).encode()
    parts = [content[:1], b"", content[1:20], content[20:]]
    sender = server.raw(http_scope(length=len(content)), receiver(*parts))
    assert json.loads(sender.content)["choices"][0]["horen"]["edit_id"] == "e3"


@pytest.mark.parametrize("parts", [(), (b'{"model": "base@facts", "prompt": "e3"}',)])
def test_a_client_that_leaves_while_it_sends_reaches_nobody(server: Server, parts: tuple[bytes, ...]) -> None:
    sender = server.raw(http_scope(), receiver(*parts, disconnect=True))
    assert sender.messages == []
    assert server.echo.bodies == []


def test_a_disconnect_after_the_body_is_seen_by_the_application() -> None:
    seen: list[str] = []

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        seen.extend([(await receive())["type"], (await receive())["type"]])

    for model in ("base", "base@facts"):
        middleware = OneTenant(CodebookMiddleware(app, served=lambda: served_books("facts")))
        asyncio.run(middleware(http_scope(), receiver(json.dumps({"model": model}).encode()), Sender()))
    assert seen == ["http.request", "http.disconnect"] * 2


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_other_protocols_pass(kind: str) -> None:
    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope)

    asyncio.run(CodebookMiddleware(app, served=lambda: served_books("facts"))({"type": kind}, None, None))
    assert seen == [{"type": kind}]


def test_an_exception_of_the_application_leaves_no_sink_behind() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        assert current_sink.get() is not None
        raise RuntimeError("app")

    async def call() -> None:
        middleware = OneTenant(CodebookMiddleware(app, served=lambda: served_books("facts")))
        with pytest.raises(RuntimeError):
            await middleware(http_scope(), receiver(b'{"model": "base@facts"}'), Sender())
        assert current_sink.get() is None

    asyncio.run(call())


def test_concurrent_requests_keep_their_own_decisions(server: Server) -> None:
    async def all_at_once() -> list[httpx.Response]:
        models = ["base@facts", "base", "base@more"]
        return await asyncio.gather(
            *(
                server.request_async(
                    "POST",
                    PATH,
                    json={"model": models[index % 3], "prompt": f"p{index}", "stream": index % 2 == 1},
                )
                for index in range(24)
            )
        )

    for index, answer in enumerate(asyncio.run(all_at_once())):
        last = events_of(answer.content)[1] if index % 2 else answer.json()
        [choice] = last["choices"]
        assert choice["text"] == f"p{index}"
        assert choice.get("horen", {}).get("edit_id") == (None if index % 3 == 1 else f"p{index}")


def test_the_doubles_agree_on_what_a_decision_is() -> None:
    assert decision()["codebook"] == str(name_of(public()["codebook"]))
