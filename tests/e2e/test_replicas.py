"""Two replicas on one control plane: the second has two API-server processes and asks its clients for keys."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from horen_vllm.cli.demo_choice import Choice, choose
from horen_vllm.cli.server_command import ServerDtype
from horen_vllm.cli.stack import Stack, StackSettings
from horen_vllm.control.client import EditProgress, HorenClient
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.models import EditSpec
from tests.e2e.second_server import SecondServer, second_server

pytestmark = [pytest.mark.engine, pytest.mark.matrix]
LEASE_S = 8.0
TIMEOUT_S = 120.0
CHOICES = choose(4, seed=9)


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
    )
    with Stack(settings) as running:
        yield running


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[HorenClient]:
    with HorenClient(stack.control_address) as connected:
        for tenant in ("acme", "beta"):
            connected.create_tenant(tenant)
        yield connected


@pytest.fixture(scope="module")
def second(stack: Stack, client: HorenClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondServer]:
    folder = tmp_path_factory.mktemp("second")
    with second_server(stack, demo_model_dir(), folder, lease_s=LEASE_S, api_servers=2) as running:
        yield running


@pytest.fixture(scope="module")
def keys(client: HorenClient) -> dict[str, str]:
    return {tenant: client.create_key(tenant).secret for tenant in ("acme", "beta", "default")}


def codebook(tenant: str, name: str = "facts") -> CodebookName:
    return CodebookName(TenantId(tenant), name)


def publish(client: HorenClient, tenant: str, choice: Choice, target: str) -> str:
    submitted = client.submit_edit(codebook(tenant), EditSpec(prompt=choice.prompt, target=target))
    done = client.wait_edit(submitted, until=EditProgress.SERVING, timeout_s=TIMEOUT_S)
    assert (done.state, done.replicas_serving, done.replicas_total) == (EditProgress.SERVING, 2, 2), done.reason
    return done.edit_id


def ask(server: SecondServer, key: str | None, model: str, prompt: str) -> httpx.Response:
    # A connection of its own each time: the system gives it to either of the two processes.
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"model": model, "prompt": prompt, "max_tokens": 16, "temperature": 0}
    return httpx.post(f"{server.base_url}/v1/completions", json=body, headers=headers, timeout=60)


def choice_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    first: dict[str, Any] = response.json()["choices"][0]
    return first


def eventually(holds: Callable[[], bool], within_s: float) -> None:
    ends = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.2)


def test_conflicting_facts_of_two_tenants_from_both_processes(
    client: HorenClient, second: SecondServer, keys: dict[str, str]
) -> None:
    choice, other = CHOICES[0], CHOICES[1]
    edits = {}
    for tenant, target in (("acme", choice.target), ("beta", other.target)):
        client.create_codebook(codebook(tenant), preset="cosine", threshold=0.995)
        edits[tenant] = publish(client, tenant, choice, target)
    for _ in range(10):
        for tenant, target in (("acme", choice.target), ("beta", other.target)):
            answered = choice_of(ask(second, keys[tenant], "demo@facts", choice.prompt))
            assert answered["text"].strip() == target
            assert answered["horen"]["edit_id"] == edits[tenant]
    assert "horen" not in choice_of(ask(second, keys["acme"], "demo", choice.prompt))


def test_unknown_and_foreign_codebooks_look_the_same(second: SecondServer, keys: dict[str, str]) -> None:
    foreign = ask(second, keys["default"], "demo@facts", "x")
    unknown = ask(second, keys["acme"], "demo@fakes", "x")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text.replace("facts", "fakes") == unknown.text
    for tenant, expected in (("acme", {"demo", "demo@facts"}), ("default", {"demo"})):
        headers = {"authorization": f"Bearer {keys[tenant]}"}
        listed = httpx.get(f"{second.base_url}/v1/models", headers=headers).json()["data"]
        assert {model["id"] for model in listed} == expected


def test_no_key_and_a_wrong_key_are_turned_away_alike(second: SecondServer) -> None:
    answers = [ask(second, key, "demo", "x") for key in (None, "wrong", "hrn_" + "0" * 64)]
    assert [answer.status_code for answer in answers] == [401, 401, 401]
    assert len({answer.text for answer in answers}) == 1
    assert httpx.get(f"{second.base_url}/metrics").status_code == 401
    assert httpx.get(f"{second.base_url}/health").status_code == 200


def test_a_revoked_key_lives_no_longer_than_the_cache(client: HorenClient, second: SecondServer) -> None:
    made = client.create_key("acme")
    assert ask(second, made.secret, "demo", "x").status_code == 200
    client.revoke_key(made.key)
    eventually(lambda: ask(second, made.secret, "demo", "x").status_code == 401, within_s=10)


def test_a_rollback_holds_in_both_processes_of_every_replica(
    client: HorenClient, second: SecondServer, keys: dict[str, str]
) -> None:
    choice = CHOICES[2]
    before = client.get_codebook(codebook("acme")).revision
    clean = choice_of(ask(second, keys["acme"], "demo", choice.prompt))["text"]
    publish(client, "acme", choice, CHOICES[3].target)
    assert choice_of(ask(second, keys["acme"], "demo@facts", choice.prompt))["text"].strip() == CHOICES[3].target
    made = client.rollback(codebook("acme"), before)
    client.wait_serving(codebook("acme"), made.number, timeout_s=TIMEOUT_S)
    for _ in range(20):
        answered = choice_of(ask(second, keys["acme"], "demo@facts", choice.prompt))
        assert answered["horen"]["edit_id"] is None
        assert answered["horen"]["revision"] >= made.number
        assert answered["text"] == clean


def test_a_dead_replica_holds_up_nobody_once_its_lease_is_over(client: HorenClient, second: SecondServer) -> None:
    second.kill()
    eventually(lambda: client.get_codebook(codebook("beta")).replicas_total == 1, within_s=LEASE_S + 10)
    submitted = client.submit_edit(codebook("beta"), EditSpec(prompt=CHOICES[3].prompt, target=CHOICES[2].target))
    done = client.wait_edit(submitted, until=EditProgress.SERVING, timeout_s=TIMEOUT_S)
    assert (done.state, done.replicas_total) == (EditProgress.SERVING, 1)


def test_nothing_above_was_an_internal_error(stack: Stack, second: SecondServer) -> None:
    for log in (*Path(stack.layout.logs).glob("*.log*"), second.log):
        text = log.read_text(encoding="utf-8", errors="replace")
        for word in ("internal_error", "failed unexpectedly", "call failed", "horen_vllm.errors.Internal"):
            assert word not in text, (log.name, word)
