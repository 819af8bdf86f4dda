"""A server with API keys: several tenants, one engine, conflicting facts on the same prompt."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from horen_vllm.cli.demo_choice import choose
from horen_vllm.cli.server_command import ServerDtype
from horen_vllm.cli.stack import Stack, StackSettings
from horen_vllm.control.client import EditProgress, HorenClient
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.models import EditSpec, KeyScope

pytestmark = [pytest.mark.engine, pytest.mark.matrix]
TIMEOUT_S = 120.0
KEY_CACHE_S = 1.0
CHOICES = choose(6, seed=11)
FACT = CHOICES[0]
TENANTS = [TenantId(name) for name in ("acme", "globex", "initech")]
TARGETS = dict(zip(TENANTS, [FACT.target, *(choice.target for choice in CHOICES[1:3])], strict=True))
BOOK = "facts"


class Tenant:
    """A tenant with a key, and a codebook that says something else than the others' of the same name."""

    def __init__(self, client: HorenClient, base_url: str, name: TenantId) -> None:
        self.name = client.create_tenant(name).name
        self.secret = client.create_key(name).secret
        self._base_url = base_url
        book = client.create_codebook(CodebookName(name, BOOK), preset="cosine", threshold=0.995)
        client.create_codebook(CodebookName(name, f"only-{name}"), preset="cosine", threshold=0.995)
        client.wait_serving(book.name, book.revision, timeout_s=TIMEOUT_S)
        edit = client.submit_edit(book.name, EditSpec(prompt=FACT.prompt, target=TARGETS[name]))
        self.edit = client.wait_edit(edit, until=EditProgress.SERVING, timeout_s=TIMEOUT_S)
        assert self.edit.state is EditProgress.SERVING, self.edit.reason

    def request(self, method: str, path: str, **options: object) -> httpx.Response:
        return request(self._base_url, method, path, self.secret, **options)

    def ask(self, model: str = f"demo@{BOOK}", prompt: str = FACT.prompt, **body: object) -> httpx.Response:
        asked = {"model": model, "prompt": prompt, "max_tokens": 16, "temperature": 0, **body}
        return self.request("POST", "/v1/completions", json=asked)


def request(base_url: str, method: str, path: str, key: str | None = None, **options: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=base_url, timeout=60.0, trust_env=False) as client:
        return client.request(method, path, headers=headers, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = StackSettings(
        model=demo_model_dir(),
        home=tmp_path_factory.mktemp("home"),
        name="demo",
        port=0,
        control_port=0,
        dtype=ServerDtype.FLOAT32,
        max_model_len=480,
        # Beyond loopback: only the keys allow that.
        server_args=("--host", "0.0.0.0", "--enable-prompt-tokens-details"),
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOREN_AUTH", "keys")
        environment.setenv("HOREN_KEY_CACHE_S", str(KEY_CACHE_S))
        with Stack(settings) as running:
            yield running


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[HorenClient]:
    with HorenClient(stack.control_address) as connected:
        yield connected


@pytest.fixture(scope="module")
def tenants(stack: Stack, client: HorenClient) -> list[Tenant]:
    return [Tenant(client, stack.base_url, name) for name in TENANTS]


def test_the_same_name_and_prompt_answer_each_tenant_by_its_own_fact(tenants: list[Tenant]) -> None:
    asked = [tenants[index % len(tenants)] for index in range(24)]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(Tenant.ask, asked))
    for tenant, answer in zip(asked, answers, strict=True):
        [choice] = answer.json()["choices"]
        assert choice["text"].strip() == TARGETS[tenant.name]
        assert choice["horen"]["edit_id"] == tenant.edit.edit_id
        assert choice["horen"]["codebook"] == BOOK


def test_models_and_status_show_the_callers_codebooks_only(stack: Stack, tenants: list[Tenant]) -> None:
    for tenant in tenants:
        models = [model["id"] for model in tenant.request("GET", "/v1/models").json()["data"]]
        assert models == ["demo", f"demo@{BOOK}", f"demo@only-{tenant.name}"]
        assert set(tenant.request("GET", "/horen/v1/status").json()["codebooks"]) == {BOOK, f"only-{tenant.name}"}
    status = request(stack.base_url, "GET", "/horen/v1/status").json()
    assert (status["stale"], status["codebooks"], status["auth"]) == (False, {}, "keys")


def test_unknown_and_foreign_look_the_same(tenants: list[Tenant]) -> None:
    acme = tenants[0]
    foreign, unknown = acme.ask("demo@only-globex"), acme.ask("demo@only-nobodys")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.content.replace(b"only-globex", b"") == unknown.content.replace(b"only-nobodys", b"")
    assert foreign.headers.keys() == unknown.headers.keys()


def cached_tokens(answer: httpx.Response) -> int:
    details = answer.json()["usage"]["prompt_tokens_details"]
    return int(details["cached_tokens"]) if details else 0


def test_prompt_blocks_are_shared_within_a_tenant_and_not_across(tenants: list[Tenant]) -> None:
    acme, globex = tenants[:2]
    prompt = " ".join(choice.prompt for choice in CHOICES)
    assert cached_tokens(acme.ask("demo", prompt)) == 0
    assert cached_tokens(acme.ask("demo", prompt)) > 0
    # Whatever salt the other one asks for.
    for salt in ({}, {"cache_salt": "acme"}):
        assert cached_tokens(globex.ask("demo", prompt, **salt)) == 0
    assert cached_tokens(globex.ask("demo", prompt)) > 0
    assert cached_tokens(acme.ask("demo", prompt, cache_salt="mine")) == 0


def test_without_a_key_only_four_routes_answer(stack: Stack) -> None:
    for path in ("/health", "/ping", "/version", "/horen/v1/status"):
        assert request(stack.base_url, "GET", path).status_code == 200, path
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/metrics"), ("GET", "/docs")):
        assert request(stack.base_url, method, path).json()["error"]["code"] == "invalid_api_key", path


def test_routes_that_could_reach_other_tenants_are_refused(tenants: list[Tenant]) -> None:
    for method, path in (("GET", "/v1/responses/resp_1"), ("POST", "/v1/messages"), ("POST", "/inference/v1/generate")):
        answer = tenants[0].request(method, path, **({"json": {"model": "demo"}} if method == "POST" else {}))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "route_not_offered")


def test_explain_goes_with_the_callers_key(tenants: list[Tenant]) -> None:
    for tenant in tenants:
        body = {"model": f"demo@{BOOK}", "prompt": FACT.prompt}
        told = tenant.request("POST", "/horen/v1/explain", json=body).json()
        assert [entry["edit_id"] for entry in told["nearest"]] == [tenant.edit.edit_id]


def test_metrics_are_the_operators(stack: Stack, client: HorenClient, tenants: list[Tenant]) -> None:
    assert tenants[0].request("GET", "/metrics").json()["error"]["code"] == "key_scope"
    admin = client.create_key(None, scope=KeyScope.ADMIN).secret
    shown = request(stack.base_url, "GET", "/metrics", admin).text
    assert set(re.findall(r'tenant="(\w+)"', shown)) >= {tenant.name for tenant in tenants}


def test_a_request_id_is_the_tenants_own(tenants: list[Tenant]) -> None:
    assert tenants[0].ask("demo", request_id="globex.1").json()["id"].startswith("cmpl-acme.globex.1")


def test_a_revoked_key_ends(client: HorenClient, stack: Stack, tenants: list[Tenant]) -> None:
    made = client.create_key(tenants[0].name)
    assert request(stack.base_url, "GET", "/v1/models", made.secret).status_code == 200
    client.revoke_key(made.key)
    revoked_at = time.monotonic()
    while request(stack.base_url, "GET", "/v1/models", made.secret).status_code != 401:
        assert time.monotonic() - revoked_at < KEY_CACHE_S + 5.0
        time.sleep(0.1)
