"""``/horen/v1/explain`` over a real application: the real request's way, and an answer in its own words."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.keyring import Keyring
from horen_vllm.keys import new_key
from horen_vllm.registry.models import KeyRecord, KeyScope
from horen_vllm.serving.decisions import current_sink
from horen_vllm.serving.explain import PATH
from tests.unit.serving.doubles import Clock, served_books
from tests.unit.serving.tapped import Server


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
    shaping: dict[str, Any] = {"stream": True, "n": 3, "max_completion_tokens": 99, "stop": ["x"], "echo": True}
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
    ({"prompt": "x", "model": None}, 400, "codebook_required"),
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


@pytest.mark.parametrize("content_type", ["text/plain", "application/json; charset=utf-8"])
def test_the_bodys_media_type_does_not_matter(server: Server, content_type: str) -> None:
    content = b'{"model": "base@facts", "prompt": "\\ud800"}'
    assert raw(server, content, content_type).status_code == 200


def test_a_malformed_body_is_refused(server: Server) -> None:
    answer = raw(server, b"{", "application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_json")


def test_a_tenants_key_explains_its_own_codebooks_only() -> None:
    keys = {tenant: new_key() for tenant in ("acme", "globex")}
    digests = {key.digest: TenantId(tenant) for tenant, key in keys.items()}

    def resolve(digest: str) -> KeyRecord:
        now = datetime.now(UTC)
        owner = digests[digest]
        return KeyRecord(
            key_id="k", tenant=owner, scope=KeyScope.READ, created_at=now, expires_at=None, revoked_at=None
        )

    served = served_books("facts", CodebookName(TenantId("acme"), "plans"))
    keyring = Keyring(resolve, ttl_s=10.0)
    server = Server(served, keyring=keyring)

    def ask(secret: str | None, model: str) -> tuple[str, str]:
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        told = server.post(headers=headers, model=model, prompt="x").json()
        error = told.get("error", {})
        return (error["type"], error["code"]) if error else ("", told["codebook"])

    assert ask(keys["acme"].secret, "base@plans") == ("", "plans")
    unknown = ("NotFound", "unknown_codebook")
    assert ask(keys["acme"].secret, "base@facts") == unknown
    assert ask(keys["globex"].secret, "base@plans") == ask(keys["globex"].secret, "base@nobody") == unknown
    assert ask(None, "base@plans") == ("Unauthenticated", "invalid_api_key")
    keyring.close()


def raw(server: Server, content: bytes, content_type: str) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server.app), base_url="http://server") as client:
            return await client.post(PATH, content=content, headers={"content-type": content_type})

    return asyncio.run(send())
