"""An API server that asks for keys, on a real control plane, and its clients."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI, Request
from pydantic import BaseModel

from horen_vllm.control.client import HorenClient
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.keyring import Keyring
from horen_vllm.registry.models import KeyScope
from horen_vllm.serving.auth import KeysOnly, isolation_of
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.listing import list_codebooks
from horen_vllm.serving.middleware import CodebookMiddleware
from horen_vllm.serving.settings import Auth, ServingSettings
from horen_vllm.serving.tenant import current_tenant
from tests.unit.serving.doubles import Clock, book_of

ACME, GLOBEX = TenantId("acme"), TenantId("globex")

PATH = "/v1/completions"
KEYS_SETTINGS = ServingSettings(auth=Auth.KEYS, control="unused")


class Card(BaseModel):
    id: str
    parent: str | None = None


class Cards(BaseModel):
    data: list[Card]


class Keys:
    """One key for each tenant, and one of the operator's."""

    def __init__(self, client: HorenClient) -> None:
        for tenant in (ACME, GLOBEX):
            client.create_tenant(tenant)
        self.acme = client.create_key(ACME).secret
        self.globex = client.create_key(GLOBEX, scope=KeyScope.EDIT).secret
        self.admin = client.create_key(None, scope=KeyScope.ADMIN).secret
        self.replica = client.create_key(None, scope=KeyScope.REPLICA).secret


class Server:
    """What stands behind the authentication, and what reached it."""

    def __init__(self, control: HorenClient) -> None:
        self.clock = Clock()
        self.served = ServedCodebooks(["base"], stale_after_s=1e9, clock=self.clock)
        names = ((ACME, "facts"), (ACME, "shared"), (GLOBEX, "secret"), (GLOBEX, "shared"))
        self.served.show([book_of(CodebookName(*name)) for name in names], confirmed_at=self.clock())
        self.requests: list[tuple[str, dict[bytes, bytes], Any]] = []
        self.app: Any = FastAPI()
        self.models: Any = SimpleNamespace(show_available_models=self._clean_models)
        list_codebooks(self.models, self.served)
        self.app.add_api_route("/v1/models", self.models.show_available_models, methods=["GET"])
        self.app.add_api_route("/{path:path}", self._echo, methods=["GET", "POST", "PUT", "DELETE"])
        self.app.add_middleware(CodebookMiddleware, served=lambda: self.served, isolate=isolation_of(KEYS_SETTINGS))
        self.keyring = Keyring(control.resolve_key, ttl_s=10.0, clock=self.clock)
        self.app.add_middleware(KeysOnly, keyring=self.keyring)

    async def _clean_models(self) -> Any:
        return Cards(data=[Card(id="base")])

    async def _echo(self, request: Request) -> Any:
        content = await request.body()
        body = json.loads(content) if content else None
        self.requests.append((request.url.path, dict(request.headers.raw), body))
        return {"tenant": current_tenant(), "choices": []}

    def run(self, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        async def body() -> Any:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await work(client)

        return asyncio.run(body())

    def request(self, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        headers = {**({"authorization": f"Bearer {key}"} if key else {}), **options.pop("headers", {})}
        answer = self.run(lambda client: client.request(method, path, headers=headers, **options))
        assert isinstance(answer, httpx.Response)
        return answer

    def complete(self, key: str | None, model: str = "base", **body: Any) -> httpx.Response:
        return self.request("POST", PATH, key, json={"model": model, "prompt": "hi", **body})

    @property
    def body(self) -> Any:
        """What reached the application last."""
        return self.requests[-1][2]


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]
