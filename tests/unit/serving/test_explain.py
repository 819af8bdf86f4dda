"""``/horen/v1/explain`` over a real application: the real request's way, and an answer in its own words."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from horen_vllm.plugin.tag import RESULT_KEY, RequestTag, tag_of
from horen_vllm.serving.auth import OneTenant
from horen_vllm.serving.auth import OneTenant
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.decisions import current_sink, tap
from horen_vllm.serving.explain import ExplainRoute
from horen_vllm.serving.middleware import CodebookMiddleware
from tests.unit.serving.doubles import Clock, decision, served_books

NEAREST = [{"edit_id": f"e{number}", "score": 0.97 - number / 100} for number in range(60)]


class Engine:
    """An engine client that decides as the plugin would report it."""

    def __init__(self) -> None:
        self.tags: list[RequestTag | None] = []
        self.renderer = SimpleNamespace(get_bos_token_id=lambda: 1, render_chat_async=None)

    async def generate(self, prompt: Any, sampling_params: Any) -> AsyncIterator[Any]:
        tag = tag_of(sampling_params)
        self.tags.append(tag)
        report = decision(edit_id="e0") | {"threshold": 0.95, "runner_up": "e1", "runner_up_score": 0.96}
        if tag is not None and tag.explain:
            window = tag.window(len(prompt["prompt_token_ids"]))
            report |= {"window": list(window), "nearest": NEAREST[: tag.explain]}
        completion = SimpleNamespace(index=0, **{RESULT_KEY: report if tag is not None else None})
        yield SimpleNamespace(outputs=[completion], kv_transfer_params=None)


class Server:
    """The two OpenAI routes on that engine, behind our middleware."""

    def __init__(self, served: ServedCodebooks) -> None:
        self.engine, self.bodies = Engine(), list[dict[str, Any]]()
        self.headers: list[Any] = []
        tap(self.engine, SimpleNamespace(model_name=lambda: "base"))
        self.app = FastAPI()
        self.app.add_api_route("/v1/completions", self.complete, methods=["POST"])
        self.app.add_api_route("/v1/chat/completions", self.complete, methods=["POST"])
        self.app.add_middleware(CodebookMiddleware, served=lambda: served)
        self.app.add_middleware(ExplainRoute, texts=texts)
        self.app.add_middleware(OneTenant)
        self.app.add_middleware(OneTenant)

    async def complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if body.get("max_model_len"):
            return JSONResponse({"error": {"message": "too long", "code": 400}}, status_code=400)
        ids = body.get("prompt", "chat")
        ids = ids if isinstance(ids, list) else [1, *range(10, 10 + len(ids))]
        sampling = SimpleNamespace(n=body["n"], extra_args=body.get("vllm_xargs"))
        async for _ in self.engine.generate({"prompt_token_ids": ids}, sampling):
            pass
        chat = request.url.path.startswith("/v1/chat")
        choice = {"index": 0, **({} if chat else {"prompt_token_ids": ids})}
        return JSONResponse({"choices": [choice], **({"prompt_token_ids": ids} if chat else {})})

    def post(self, path: str = "/horen/v1/explain", headers: Any = None, **body: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await client.post(path, json=body, headers=headers)

        return asyncio.run(send())


def texts(ids: Sequence[int]) -> list[str]:
    return [f"t{token}" for token in ids]


@pytest.fixture
def server() -> Server:
    return Server(served_books("facts"))


def test_a_prompt_is_explained_by_the_decision_of_its_real_request(server: Server) -> None:
    answer = server.post(model="base@facts", prompt="hello", top=2)
    assert answer.status_code == 200
    told = answer.json()
    assert told["model"] == "base@facts"
    assert told["asked"] == {"path": "/v1/completions", "top": 2}
    assert (told["codebook"], told["revision"], told["threshold"]) == ("facts", 3, 0.95)
    assert told["decision"] | {"score": 0} == {
        "fired": True, "edit_id": "e0", "score": 0, "runner_up": "e1", "runner_up_score": 0.96
    }  # fmt: skip
    assert [(row["edit_id"], row["fires"]) for row in told["nearest"]] == [("e0", True), ("e1", False)]
    assert (told["query_window"], told["prompt_tokens"]) == ([3, 6], 6)
    assert [token["text"] for token in told["tokens"] if token["in_window"]] == ["t12", "t13", "t14"]


@pytest.mark.parametrize("prompt", [{"prompt": [5, 6, 7]}, {"messages": [{"role": "user", "content": "hi"}]}])
def test_token_ids_and_chats_are_explained_too(server: Server, prompt: dict[str, Any]) -> None:
    told = server.post(model="base@facts", **prompt).json()
    assert len(told["nearest"]) == 5
    assert told["asked"]["path"] == ("/v1/chat/completions" if "messages" in prompt else "/v1/completions")
    assert [token["id"] for token in told["tokens"]] == prompt.get("prompt", [1, 10, 11, 12, 13])


def test_one_token_is_asked_for_whatever_the_body_says(server: Server) -> None:
    shaping: dict[str, Any] = {"stream": True, "n": 3, "max_tokens": 99, "max_completion_tokens": 99, "stop": ["x"], "echo": True}
    kept: dict[str, Any] = {"chat_template_kwargs": {"a": 1}, "tools": [1], "seed": 7}
    forced = {"type": "function", "function": {"name": "f"}}
    messages = [{"role": "user", "content": "hi"}]
    assert server.post(model="base@facts", messages=messages, tool_choice=forced, **shaping, **kept).status_code == 200
    [body] = server.bodies
    sent = {name: body[name] for name in ("stream", "n", "max_tokens", "temperature", "return_token_ids")}
    assert sent == {"stream": False, "n": 1, "max_tokens": 1, "temperature": 0.0, "return_token_ids": True}
    assert {name: body[name] for name in kept} == kept
    assert body["tool_choice"] == "none"
    assert not {"stop", "echo", "max_completion_tokens", "top"} & set(body)


def test_the_credential_goes_along(server: Server) -> None:
    server.post(model="base@facts", prompt="hello", headers={"authorization": "Bearer k", "x-request-id": "7"})
    assert (server.headers[0]["authorization"], server.headers[0]["x-request-id"]) == ("Bearer k", "7")


def test_no_other_request_reports_what_is_near(server: Server) -> None:
    server.post(model="base@facts", prompt="hello")
    answer = server.post("/v1/completions", model="base@facts", prompt="hello", n=1)
    assert answer.json()["choices"][0]["horen"]["edit_id"] == "e0"
    assert "nearest" not in answer.text
    assert [tag.explain for tag in server.engine.tags if tag] == [5, 0]
    assert current_sink.get() is None


REFUSED = [
    ({"prompt": "x", "model": "base"}, 400, "codebook_required"),
    ({"prompt": "x", "model": "base@nobody"}, 404, "unknown_codebook"),
    ({"prompt": "x", "top": 0}, 400, "invalid_explain"),
    ({"prompt": "x", "top": 51}, 400, "invalid_explain"),
    ({"prompt": "x", "top": True}, 400, "invalid_explain"),
    ({"prompt": "x", "top": "5"}, 400, "invalid_explain"),
    ({"prompt": ["x", "y"]}, 400, "invalid_explain"),
    ({"prompt": [[1], [2]]}, 400, "invalid_explain"),
    ({}, 400, "invalid_explain"),
    ({"prompt": "x", "messages": []}, 400, "invalid_explain"),
    ({"prompt": "x", "vllm_xargs": {"horen_explain": 50}}, 400, "reserved_field"),
    ({"prompt": "x", "use_beam_search": True}, 400, "unsupported_parameter"),
]


@pytest.mark.parametrize(("body", "status", "code"), REFUSED)
def test_what_cannot_be_explained_is_refused_by_name(
    server: Server, body: dict[str, Any], status: int, code: str
) -> None:
    answer = server.post(**{"model": "base@facts", **body})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_an_error_of_vllm_comes_back_as_it_is(server: Server) -> None:
    answer = server.post(model="base@facts", prompt="x", max_model_len=1)
    assert (answer.status_code, answer.json()) == (400, {"error": {"message": "too long", "code": 400}})


def test_a_stale_server_explains_nothing() -> None:
    clock = Clock()
    server = Server(served_books("facts", clock=clock))
    clock.now += 31.0
    answer = server.post(model="base@facts", prompt="x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "replica_stale")


def test_a_malformed_body_is_refused(server: Server) -> None:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server.app), base_url="http://server") as client:
            return await client.post("/horen/v1/explain", content=b"{")

    answer = asyncio.run(send())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_json")
