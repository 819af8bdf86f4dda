"""Keys, tenants and codebooks together: a real control plane on SQLite, an application that echoes, hostile clients."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.core.presets import SpanMode
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.plugin.tag import CODEBOOK_KEY
from horen_vllm.registry.migrate import upgrade
from horen_vllm.registry.models import KeyScope
from horen_vllm.registry.store import SqlRegistry
from horen_vllm.serving.auth import KeysOnly, add_authentication, isolation_of
from horen_vllm.serving.codebooks import ServedCodebook, ServedCodebooks
from horen_vllm.serving.keyring import Keyring
from horen_vllm.serving.listing import list_codebooks
from horen_vllm.serving.middleware import CodebookMiddleware
from horen_vllm.serving.settings import Auth, ServingSettings
from horen_vllm.serving.tenant import current_tenant
from tests.unit.serving.doubles import Clock, Sender, http_scope, receiver

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


class Server:
    """What stands behind the authentication, and what reached it."""

    def __init__(self, control: HorenClient) -> None:
        self.clock = Clock()
        self.served = ServedCodebooks(["base"], stale_after_s=1e9, clock=self.clock)
        for tenant, codebook in ((ACME, "facts"), (ACME, "shared"), (GLOBEX, "secret"), (GLOBEX, "shared")):
            name = CodebookName(tenant, codebook)
            self.served.set(ServedCodebook(name=name, revision=3, window_ratio=0.5, span=SpanMode.PROMPT))
        self.served.confirm(self.served.now())
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


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    url = f"sqlite:///{tmp_path_factory.mktemp('registry') / 'registry.db'}"
    upgrade(url)
    registry = SqlRegistry(url)
    settings = ControlSettings(model="base", fingerprint="f" * 64, site="s", port=0, grace_s=0.1)
    with serve(registry, settings) as running:
        yield running
    registry.close()


@pytest.fixture(scope="module")
def client(control: ControlServer) -> Iterator[HorenClient]:
    with HorenClient(control.address, timeout_s=5.0) as connected:
        yield connected


@pytest.fixture(scope="module")
def keys(client: HorenClient) -> Keys:
    return Keys(client)


@pytest.fixture
def server(client: HorenClient) -> Iterator[Server]:
    server = Server(client)
    yield server
    server.keyring.close()


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


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
