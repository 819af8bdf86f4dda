"""Tenants and API keys over gRPC, and that everything else works for tenants other than the default one."""

import math
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import pytest

from horen_vllm.control._pb.horen.v1 import admin_pb2
from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer
from horen_vllm.errors import AlreadyExists, HorenError, NotFound
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.keys import key_digest, looks_like_key, new_key
from horen_vllm.registry.models import EditRecord, EditSpec, KeyScope

ACME = TenantId("acme")


@pytest.fixture
def acme(client: HorenClient) -> TenantId:
    return client.create_tenant(ACME).name


@pytest.fixture
def channel(server: ControlServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(HorenError) as caught:
        call()
    return caught.value.code


def test_a_new_key_resolves_to_its_tenant(client: HorenClient, acme: TenantId) -> None:
    made = client.create_key(acme, lifetime_s=60)
    assert looks_like_key(made.secret.encode())
    assert made.key.key_id in made.secret
    assert client.resolve_key(key_digest(made.secret.encode())) == made.key
    assert (made.key.tenant, made.key.scope) == (acme, KeyScope.READ)
    assert made.key.expires_at is not None
    assert 59 <= (made.key.expires_at - made.key.created_at).total_seconds() <= 61


def test_the_secret_is_nowhere_but_in_the_answer(client: HorenClient, acme: TenantId, tmp_path: Path) -> None:
    made = client.create_key(acme)
    random_part = made.secret.removeprefix(f"hk_{made.key.key_id}_")
    assert random_part not in repr(made)
    assert random_part not in str(list(client.list_keys()))
    with sqlite3.connect(tmp_path / "registry" / "registry.db") as database:
        dump = "\n".join(database.iterdump())
    assert made.key.key_id in dump
    assert random_part not in dump


def test_secrets_have_256_random_bits() -> None:
    secrets = {new_key().secret for _ in range(1000)}
    assert len({secret.split("_", 2)[2] for secret in secrets}) == 1000
    assert all(len(secret.split("_", 2)[2]) * 6 >= 256 for secret in secrets)


def test_unknown_and_revoked_keys_look_the_same(client: HorenClient, acme: TenantId) -> None:
    made = client.create_key(acme)
    assert client.revoke_key(made.key).revoked_at is not None
    said = set()
    for digest in (key_digest(made.secret.encode()), "0" * 64):
        with pytest.raises(NotFound) as caught:
            client.resolve_key(digest)
        said.add((caught.value.code, caught.value.message))
    assert len(said) == 1
    assert client.revoke_key(f"keys/{made.key.key_id}") == client.revoke_key(made.key.key_id)


def test_lists_are_paged(client: HorenClient, acme: TenantId) -> None:
    keys = [client.create_key(acme).key for _ in range(3)] + [client.create_key(None, scope=KeyScope.ADMIN).key]
    assert [tenant.name for tenant in client.list_tenants(page_size=1)] == ["acme", "default"]
    assert list(client.list_keys(page_size=1)) == sorted(keys, key=lambda key: key.key_id)
    assert {key.tenant for key in client.list_keys(acme, page_size=2)} == {acme}


def test_what_is_wrong_is_named(client: HorenClient, acme: TenantId) -> None:
    with pytest.raises(AlreadyExists) as caught:
        client.create_tenant(acme)
    assert caught.value.code == "tenant_exists"
    assert code_of(lambda: client.create_tenant("Acme Inc")) == "invalid_name"
    assert code_of(lambda: client.create_key("nobody")) == "unknown_tenant"
    assert code_of(lambda: client.create_key(acme, scope=KeyScope.ADMIN)) == "invalid_key_scope"
    assert code_of(lambda: client.create_key(None)) == "invalid_key_scope"
    assert code_of(lambda: list(client.list_keys("nobody"))) == "unknown_tenant"
    assert code_of(lambda: list(client.list_codebooks("nobody"))) == "unknown_tenant"
    assert code_of(lambda: client.revoke_key("k0")) == "unknown_key"
    assert code_of(lambda: client.revoke_key("tenants/acme")) == "invalid_name"
    assert code_of(lambda: client.resolve_key("secret in the wrong place")) == "invalid_digest"
    for lifetime in (-1.0, math.nan, math.inf, 1e12):
        assert code_of(partial(client.create_key, acme, lifetime_s=lifetime)) == "invalid_lifetime"


def test_a_scope_from_the_future_is_refused(channel: grpc.Channel, client: HorenClient, acme: TenantId) -> None:
    call = channel.unary_unary("/horen.v1.AdminService/CreateKey")
    with pytest.raises(grpc.RpcError) as caught:
        call(admin_pb2.CreateKeyRequest(tenant="tenants/acme", scope=7).SerializeToString(), timeout=5)  # type: ignore[arg-type]
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert list(client.list_keys()) == []


def test_a_tenant_edits_its_own_codebook(
    client: HorenClient, acme: TenantId, demo: CodebookName, spec: EditSpec, publish: Callable[[], EditRecord]
) -> None:
    book = client.create_codebook(CodebookName(acme, "demo"), preset="cosine", threshold=0.5)
    assert book.name != demo
    edit = client.submit_edit(book.name, replace(spec, target="Grace"))
    assert publish().codebook == book.name
    assert client.get_edit(edit).published_revision == 2
    assert client.get_codebook(demo).revision == 1
    assert [view.name for view in client.list_codebooks(acme)] == [book.name]
    assert [view.name for view in client.list_codebooks()] == [demo]
    assert client.rollback(book.name, 1).number == 3


def test_an_edit_is_found_under_its_own_tenant_only(client: HorenClient, acme: TenantId, spec: EditSpec) -> None:
    book = client.create_codebook(CodebookName(acme, "demo"), preset="cosine", threshold=0.5).name
    edit = client.submit_edit(book, spec)
    assert client.get_edit(f"tenants/acme/codebooks/-/edits/{edit.edit_id}").codebook == book
    said = set()
    for name in (edit.edit_id, f"tenants/default/codebooks/demo/edits/{edit.edit_id}"):
        with pytest.raises(NotFound) as caught:
            client.get_edit(name)
        said.add((caught.value.code, caught.value.message))
    with pytest.raises(NotFound) as caught:
        client.get_edit("e0")
    assert said == {("unknown_edit", caught.value.message.replace("e0", edit.edit_id))}
