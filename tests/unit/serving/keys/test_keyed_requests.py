"""What a request with a key may say, and what it may not choose by any spelling."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer
from horen_vllm.plugin.tag import CODEBOOK_KEY
from horen_vllm.serving.auth import KeysOnly, add_authentication, isolation_of
from horen_vllm.serving.middleware import CodebookMiddleware
from horen_vllm.serving.settings import Auth, ServingSettings
from horen_vllm.serving.tenant import current_tenant
from tests.unit.serving.doubles import Sender, http_scope
from tests.unit.serving.keys.keyed import ACME, GLOBEX, KEYS_SETTINGS, PATH, Keys, Server, error_of


def test_what_chooses_engine_state_is_taken_away(server: Server, keys: Keys) -> None:
    engine = {"session_id": "s", "priority": -1, "kv_transfer_params": {"remote_block_ids": [1]}}
    headers = {"X-Session-ID": "s", "X-VLLM-Priority": "-9", "X-Data-Parallel-Rank": "1", "X-Request-Id": "r"}
    body = {"model": "base", "prompt": "hi", "request_id": "r", **engine, "vllm_xargs": {"session_id": "s"}}
    server.request("POST", PATH, keys.acme, json=body, headers=headers)
    _, received, kept = server.requests[-1]
    assert {name for name in received if name.startswith(b"x-")} == {b"x-request-id"}
    assert (received[b"x-request-id"], kept["request_id"]) == (b"acme.r", "acme.r")
    assert set(kept) == {"model", "prompt", "request_id", "vllm_xargs", "cache_salt"}
    assert kept["vllm_xargs"] == {}
    assert received[b"content-length"] == str(len(json.dumps(kept))).encode()


def test_the_last_of_two_equal_fields_counts_here_and_behind(server: Server, keys: Keys) -> None:
    content = b'{"model": "base@shared", "prompt": "a", "model": "base@secret", "prompt": "b"}'
    answer = server.request("POST", PATH, keys.acme, content=content, headers={"content-type": "application/json"})
    assert error_of(answer) == (404, "unknown_codebook")
    content = content.replace(b"secret", b"facts").replace(b'"prompt": "b"', b'"cache_salt": "x", "cache_salt": "y"')
    server.request("POST", PATH, keys.acme, content=content, headers={"content-type": "application/json"})
    assert server.body["vllm_xargs"][CODEBOOK_KEY] == "tenants/acme/codebooks/facts"
    server.complete(keys.acme, cache_salt="y")
    assert server.body["cache_salt"] == server.requests[-2][2]["cache_salt"]


@pytest.mark.parametrize("key", ["vllm_xargs", "vllm\\u005fxargs"])
def test_a_reserved_field_in_any_spelling_is_refused(server: Server, keys: Keys, key: str) -> None:
    content = f'{{"model": "base", "{key}": {{"horen\\u005fcodebook": "tenants/globex/codebooks/secret"}}}}'
    assert error_of(server.request("POST", PATH, keys.acme, content=content.encode())) == (400, "reserved_field")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_no_media_type_gets_round_the_salt(server: Server, keys: Keys, content_type: str) -> None:
    headers = {"content-type": content_type}
    server.request("POST", PATH, keys.acme, content=b'{"model": "base"}', headers=headers)
    assert len(server.body["cache_salt"]) == 64
    answer = server.request("POST", PATH, keys.acme, content=b"model=base&prompt=hi", headers=headers)
    assert error_of(answer) == (400, "malformed_json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "utf-8-sig"])
def test_another_encoding_is_read_as_the_application_reads_it(server: Server, keys: Keys, encoding: str) -> None:
    content = '{"model": "base@secret", "prompt": "hi"}'.encode(encoding)
    answer = server.request("POST", PATH, keys.acme, content=content, headers={"content-type": "application/json"})
    assert error_of(answer) in {(404, "unknown_codebook"), (400, "malformed_json")}
    assert server.requests == []


NAMES = ["base", "base@shared", "base@secret", "base@facts", "tenants/globex/codebooks/secret", "base@@secret", "x", ""]
VALUES = (
    st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(["tenants/globex/codebooks/secret", "globex"])
)
BODIES = st.fixed_dictionaries(
    {"prompt": st.just("hi")},
    optional={
        "model": st.sampled_from(NAMES) | st.lists(st.sampled_from(NAMES), max_size=2) | VALUES,
        "vllm_xargs": VALUES | st.dictionaries(st.sampled_from(["horen_codebook", "HOREN_CODEBOOK", "x"]), VALUES),
        "tenant": VALUES,
        "user": VALUES,
        "cache_salt": VALUES,
    },
)


@settings(max_examples=60, deadline=None)
@given(body=BODIES, header=st.sampled_from(["x-tenant", "x-horen-tenant", "openai-organization", "x-forwarded-user"]))
def test_nothing_in_a_request_chooses_the_tenant(client: HorenClient, keys: Keys, body: Any, header: str) -> None:
    server = Server(client)
    server.request("POST", PATH, keys.acme, json=body, headers={header: "globex"})
    server.keyring.close()
    for _, _, reached in server.requests:
        extra = reached.get("vllm_xargs")
        tagged = (
            [value for name, value in extra.items() if name.startswith("horen_")] if isinstance(extra, dict) else []
        )
        assert not tagged or tagged[0] in {"tenants/acme/codebooks/facts", "tenants/acme/codebooks/shared"}
        assert len(reached["cache_salt"]) == 64


def test_a_body_in_chunks_is_isolated_too(server: Server, keys: Keys) -> None:
    content = json.dumps({"model": "base@shared", "prompt": "hi", "cache_salt": "x"}).encode()

    async def chunks() -> Any:
        for start in range(0, len(content), 7):
            yield content[start : start + 7]

    server.request("POST", PATH, keys.globex, content=chunks(), headers={"content-type": "application/json"})
    assert server.body["vllm_xargs"][CODEBOOK_KEY] == "tenants/globex/codebooks/shared"
    assert len(server.body["cache_salt"]) == 64
    assert b"transfer-encoding" not in server.requests[-1][1]


def test_requests_of_many_tenants_at_once_keep_apart(server: Server, keys: Keys) -> None:
    async def all_at_once(client: httpx.AsyncClient) -> list[httpx.Response]:
        def ask(index: int) -> Any:
            key = keys.acme if index % 2 else keys.globex
            return client.post(
                PATH, json={"model": "base@shared", "prompt": str(index)}, headers={"authorization": f"Bearer {key}"}
            )

        return list(await asyncio.gather(*map(ask, range(40))))

    answers = server.run(all_at_once)
    assert [answer.json()["tenant"] for answer in answers] == [ACME if index % 2 else GLOBEX for index in range(40)]
    for _, _, body in server.requests:
        tenant = ACME if int(body["prompt"]) % 2 else GLOBEX
        assert body["vllm_xargs"][CODEBOOK_KEY] == f"tenants/{tenant}/codebooks/shared"


def test_without_keys_everybody_is_the_default_tenant() -> None:
    app = FastAPI()
    app.add_api_route("/who", lambda: {"tenant": current_tenant()}, methods=["GET"])
    add_authentication(app, ServingSettings())
    assert isolation_of(ServingSettings()) is None

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://server") as client:
            return await client.get("/who", headers={"authorization": "Bearer x"})

    assert asyncio.run(ask()).json() == {"tenant": "default"}
    assert current_tenant() is None


def test_with_keys_the_control_plane_of_the_settings_is_asked(control: ControlServer, keys: Keys) -> None:
    app = FastAPI()
    app.add_api_route("/v1/models", lambda: {"tenant": current_tenant()}, methods=["GET"])
    add_authentication(app, ServingSettings(auth=Auth.KEYS, control=control.address))

    async def ask(key: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://server") as client:
            return await client.get("/v1/models", headers={"authorization": f"Bearer {key}"})

    assert asyncio.run(ask(keys.acme)).json() == {"tenant": "acme"}
    assert asyncio.run(ask(keys.acme[:-1])).status_code == 401


def test_nobody_without_a_key_makes_the_server_hold_a_body(server: Server) -> None:
    """``POST /ping`` is open to all, and a body has no limit of its own."""
    received: list[int] = []

    async def endless() -> dict[str, Any]:
        assert len(received) < 3, "the body is read into memory"
        received.append(0)
        return {"type": "http.request", "body": b"x" * 1024, "more_body": True}

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    codebooks = CodebookMiddleware(answer, served=lambda: server.served, isolate=isolation_of(KEYS_SETTINGS))
    sender = Sender()
    asyncio.run(KeysOnly(codebooks, server.keyring)(http_scope("/ping"), endless, sender))
    assert (sender.status, received) == (200, [])
