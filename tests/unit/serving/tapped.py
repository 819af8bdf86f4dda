"""The two OpenAI routes in front of an engine client that decides as the plugin does, behind our real middleware."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from horen_vllm.errors import HorenError, InvalidArgument
from horen_vllm.keyring import Keyring
from horen_vllm.plugin.tag import RESULT_KEY, RequestTag, tag_of
from horen_vllm.serving.auth import KeysOnly, OneTenant
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.decisions import tap
from horen_vllm.serving.explain import ExplainRoute
from horen_vllm.serving.metrics import ServingMetrics
from horen_vllm.serving.middleware import CodebookMiddleware
from horen_vllm.serving.responses import answer_refusal
from tests.unit.serving.doubles import decision

NEAREST = [{"edit_id": f"e{number}", "score": 0.97 - number / 100} for number in range(60)]


class Engine:
    """An engine client that decides as the plugin would report it."""

    def __init__(self) -> None:
        self.tags: list[RequestTag | None] = []
        self.renderer = SimpleNamespace(get_bos_token_id=lambda: 1, render_chat_async=None)

    async def generate(self, prompt: Any, sampling_params: Any) -> AsyncIterator[Any]:
        tag = tag_of(sampling_params)
        self.tags.append(tag)
        choices = range(sampling_params.n)
        # Twice, as for a request with stop strings.
        for _ in range(2):
            outputs = [SimpleNamespace(index=index, **{RESULT_KEY: report(tag, prompt, index)}) for index in choices]
            yield SimpleNamespace(outputs=outputs, kv_transfer_params=None)


def report(tag: RequestTag | None, prompt: Any, choice: int) -> dict[str, Any] | None:
    """Return the decision of one choice: an edit fires in every second one."""
    if tag is None:
        return None
    edit_id = "e0" if choice % 2 == 0 else None
    fields = {**decision(edit_id=edit_id), "threshold": 0.95, "runner_up": "e1", "runner_up_score": 0.96}
    fields["codebook"] = tag.codebook
    if tag.explain:
        window = tag.window(len(prompt["prompt_token_ids"]))
        fields |= {"window": list(window), "nearest": NEAREST[: tag.explain]}
    return fields


class Server:
    """The two OpenAI routes on that engine, behind our middleware."""

    def __init__(
        self, served: ServedCodebooks, metrics: ServingMetrics | None = None, keyring: Keyring | None = None
    ) -> None:
        self.engine, self.bodies = Engine(), list[dict[str, Any]]()
        self.headers: list[Any] = []
        tap(self.engine, SimpleNamespace(model_name=lambda: "base"))
        self.app = FastAPI()
        self.app.add_api_route("/v1/completions", self.complete, methods=["POST"])
        self.app.add_api_route("/v1/chat/completions", self.complete, methods=["POST"])
        self.app.add_middleware(CodebookMiddleware, served=lambda: served, metrics=metrics)
        self.app.add_middleware(ExplainRoute, texts=texts)
        if keyring is None:
            self.app.add_middleware(OneTenant)
        else:
            self.app.add_middleware(KeysOnly, keyring=keyring)
        self.app.add_exception_handler(HorenError, answer_refusal)

    async def complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if body.get("prompt") == "refuse me":
            raise InvalidArgument("no question in it.", code="empty_query_span")
        if body.get("max_model_len"):
            return JSONResponse({"error": {"message": "too long", "code": 400}}, status_code=400)
        ids = body.get("prompt", "chat")
        ids = ids if isinstance(ids, list) else [1, *range(10, 10 + len(ids))]
        sampling = SimpleNamespace(n=body["n"], extra_args=body.get("vllm_xargs"))
        async for _ in self.engine.generate({"prompt_token_ids": ids}, sampling):
            pass
        chat = request.url.path.startswith("/v1/chat")
        told = {"prompt_token_ids": ids}
        choices = [{"index": index, **({} if chat else told)} for index in range(body["n"])]
        return JSONResponse({"choices": choices, **(told if chat else {})})

    def post(self, path: str = "/horen/v1/explain", headers: Any = None, **body: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await client.post(path, json=body, headers=headers)

        return asyncio.run(send())


def texts(ids: Sequence[int]) -> list[str]:
    return [f"t{token}" for token in ids]
