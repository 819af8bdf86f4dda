"""Keys, tenants and codebooks together: a real control plane on SQLite, an application that echoes, hostile clients."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer
from horen_vllm.plugin.tag import CODEBOOK_KEY
from horen_vllm.serving.auth import KeysOnly
from tests.unit.serving.doubles import Sender, http_scope, receiver
from tests.unit.serving.keys.keyed import ACME, GLOBEX, Keys, Server, error_of


def test_a_key_opens_its_tenants_codebooks(server: Server, keys: Keys) -> None:
    for key, tenant in ((keys.acme, ACME), (keys.globex, GLOBEX)):
        answer = server.complete(key, "base@shared")
        assert answer.json()["tenant"] == tenant
        assert server.body["vllm_xargs"][CODEBOOK_KEY] == f"tenants/{tenant}/codebooks/shared"
        assert server.body["model"] == "base"


def test_unknown_and_foreign_codebooks_look_the_same(server: Server, keys: Keys) -> None:
    said = []
    for name in ("secret", "nobody"):
        answer = server.complete(keys.acme, f"base@{name}")
        said.append((answer.status_code, dict(answer.headers), answer.content.replace(name.encode(), b"X")))
        said[-1][1].pop("content-length")
    assert said[0] == said[1]
    assert said[0][0] == 404
    assert server.requests == []


@pytest.mark.parametrize(
    "name", ["tenants/globex/codebooks/secret", "../globex/secret", "secret\x00", "\u017fecret", "SECRET"]
)
def test_no_spelling_leads_to_another_tenant(server: Server, keys: Keys, name: str) -> None:
    assert error_of(server.complete(keys.acme, f"base@{name}")) == (404, "unknown_codebook")


def test_models_are_the_callers(server: Server, keys: Keys) -> None:
    listed = {key: server.request("GET", "/v1/models", key).json()["data"] for key in (keys.acme, keys.globex)}
    assert [card["id"] for card in listed[keys.acme]] == ["base", "base@facts", "base@shared"]
    assert [card["id"] for card in listed[keys.globex]] == ["base", "base@secret", "base@shared"]


def test_the_clean_model_needs_a_key_too_and_is_salted(server: Server, keys: Keys) -> None:
    assert error_of(server.complete(None)) == (401, "invalid_api_key")
    salts = set()
    for key in (keys.acme, keys.globex):
        for salt in (None, "mine"):
            assert server.complete(key, **({"cache_salt": salt} if salt else {})).status_code == 200
            salts.add(server.body["cache_salt"])
    assert len(salts) == 4
    server.complete(keys.acme)
    assert server.body["cache_salt"] in salts
    assert "mine" not in salts


def test_refusals_are_all_alike(server: Server, client: HorenClient, keys: Keys) -> None:
    revoked, expired = client.create_key(ACME), client.create_key(ACME, lifetime_s=1e-3)
    client.revoke_key(revoked.key)
    bearer = [
        f"Bearer {secret}" for secret in (revoked.secret, expired.secret, keys.acme[:-1], keys.acme + "A", "", "x")
    ]
    others = [f"Basic {keys.acme}", keys.acme, "Bearer", f"Bearer{keys.acme}", f"Bearer {keys.acme} {keys.acme}"]
    answers = [server.request("GET", "/v1/models")]
    answers += [server.request("GET", "/v1/models", headers={"authorization": value}) for value in (*bearer, *others)]
    assert {(answer.status_code, answer.content, str(dict(answer.headers))) for answer in answers} == {
        (401, answers[0].content, str(dict(answers[0].headers)))
    }
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert answers[0].json()["error"] == {
        "message": "this server needs a valid API key: send it as 'Authorization: Bearer KEY'.",
        "type": "Unauthenticated",
        "param": None,
        "code": "invalid_api_key",
    }


def test_a_revoked_key_is_refused_after_the_bound(server: Server, client: HorenClient) -> None:
    made = client.create_key(ACME)
    assert server.complete(made.secret).status_code == 200
    client.revoke_key(made.key)
    server.clock.now += 10.0
    assert error_of(server.complete(made.secret)) == (401, "invalid_api_key")


def test_without_a_control_plane_keys_run_out(keys: Keys, control: ControlServer) -> None:
    with HorenClient("127.0.0.1:9", timeout_s=1.0) as nobody:
        server = Server(nobody)
        assert error_of(server.complete(keys.acme)) == (503, "key_check_unavailable")
        assert error_of(server.complete("x")) == (401, "invalid_api_key")
        assert server.request("GET", "/health").status_code == 200
        server.keyring.close()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_scheme_is_read_in_any_case(server: Server, keys: Keys, scheme: str) -> None:
    answer = server.request("GET", "/v1/models", headers={"authorization": f"{scheme} {keys.acme}"})
    assert answer.status_code == 200


def test_two_credentials_are_none(server: Server, keys: Keys) -> None:
    value = f"Bearer {keys.acme}".encode()
    for headers in ([(b"authorization", value)] * 2, [(b"authorization", value), (b"authorization", b"Bearer x")]):
        scope = http_scope("/v1/models", method="GET")
        sender = Sender()
        asyncio.run(server.app({**scope, "headers": headers, "app": server.app}, receiver(b""), sender))
        assert sender.status == 401


@settings(max_examples=20, deadline=None)
@given(value=st.binary(max_size=300))
def test_no_bytes_but_a_key_open_anything(client: HorenClient, value: bytes) -> None:
    server = Server(client)
    for header in (value, b"Bearer " + value):
        sender = Sender()
        scope = {**http_scope("/v1/models", method="GET"), "headers": [(b"authorization", header)]}
        asyncio.run(KeysOnly(server.app, server.keyring)(scope, receiver(b""), sender))
        assert sender.status == 401
    server.keyring.close()


def test_nothing_is_read_of_a_client_without_a_key(server: Server) -> None:
    async def receive() -> Any:
        raise AssertionError("the body was read")

    sender = Sender()
    asyncio.run(server.app({**http_scope(), "app": server.app}, receive, sender))
    assert sender.status == 401


OPEN = [("GET", "/health"), ("GET", "/ping"), ("GET", "/version"), ("GET", "/horen/v1/status")]


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_an_open_route_needs_no_key_and_takes_no_wrong_one(server: Server, keys: Keys, method: str, path: str) -> None:
    assert server.request(method, path).json()["tenant"] is None
    assert server.request(method, path, keys.acme).json()["tenant"] == ACME
    assert server.request(method, path, keys.admin).json()["tenant"] is None
    assert error_of(server.request(method, path, keys.acme[:-1])) == (401, "invalid_api_key")


def test_metrics_are_the_operators(server: Server, keys: Keys) -> None:
    for path in ("/metrics", "/metrics/", "/load"):
        assert error_of(server.request("GET", path)) == (401, "invalid_api_key")
        assert error_of(server.request("GET", path, keys.acme)) in {(403, "key_scope"), (403, "route_not_offered")}
    assert server.request("GET", "/metrics", keys.admin).status_code == 200
    assert error_of(server.complete(keys.admin)) == (403, "key_scope")


def test_a_replicas_key_opens_nothing_here(server: Server, keys: Keys) -> None:
    for path in ("/metrics", "/v1/models"):
        assert error_of(server.request("GET", path, keys.replica)) == (403, "key_scope")
    assert error_of(server.complete(keys.replica)) == (403, "key_scope")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/messages"),
        ("POST", "/inference/v1/generate"),
        ("POST", "/inference/v1/abort_requests"),
        ("POST", "/invocations"),
        ("POST", "/collective_rpc"),
        ("GET", "/docs"),
        ("PUT", "/v1/completions"),
        ("POST", "/v1/completions/"),
        ("DELETE", "/v1/models"),
        ("GET", "/"),
    ],
)
def test_other_routes_are_refused_by_name(server: Server, keys: Keys, method: str, path: str) -> None:
    assert error_of(server.request(method, path)) == (401, "invalid_api_key")
    for key in (keys.acme, keys.admin):
        answer = server.request(method, path, key)
        assert error_of(answer) == (403, "route_not_offered")
        assert f"{method} {path} " in answer.json()["error"]["message"]
    assert server.requests == []


def test_websockets_are_closed_before_they_open(server: Server, keys: Keys) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {keys.acme}".encode())]
    scope = {"type": "websocket", "path": "/v1/realtime", "headers": headers, "app": server.app}
    asyncio.run(server.app(scope, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_prefix_hides_no_route(client: HorenClient, keys: Keys) -> None:
    server = Server(client)
    server.app.root_path = "/proxy"
    assert server.request("POST", "/proxy/v1/completions", keys.acme, json={"model": "base@shared"}).status_code == 200
    assert server.body["vllm_xargs"][CODEBOOK_KEY] == "tenants/acme/codebooks/shared"
    assert "cache_salt" in server.body
    assert error_of(server.request("GET", "/proxy/v1/responses/1", keys.acme)) == (403, "route_not_offered")
    server.keyring.close()
