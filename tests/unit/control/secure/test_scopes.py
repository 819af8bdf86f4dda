"""Who may call what: every method with every scope of key, on a running server."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from horen_vllm.control.access import OPENS, RULES, Access
from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer
from horen_vllm.errors import HorenError, InvalidArgument, NotFound, PermissionDenied
from horen_vllm.ids import CodebookName
from horen_vllm.keys import NewKey
from horen_vllm.registry.models import EditSpec, KeyScope
from tests.unit.control.secure.conftest import ACME, BOLT
from tests.unit.control.secure.messages import METHODS, kind_of, new_message

MUTATIONS = ("Submit", "Retire", "Create", "Delete", "Undelete", "Import", "Rollback", "Update", "Revoke", "Rotate")


@pytest.fixture
def channel(keyed: ControlServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(keyed.address) as opened:
        yield opened


def refusal(channel: grpc.Channel, name: str, metadata: tuple[tuple[str, str], ...], data: bytes = b"") -> str | None:
    """Return the slug that ends a call with one empty request; None when it is answered."""
    method = METHODS[name]
    call = getattr(channel, kind_of(method))(f"/horen.v1.{name}")
    request = iter([data]) if method.client_streaming else data
    try:
        answer = call(request, timeout=5, metadata=metadata)
        for _ in answer if method.server_streaming else ():
            break
    except grpc.RpcError as exc:
        failure: Any = exc
        return str(dict(failure.trailing_metadata()).get("horen-error-code", failure.code().name))
    return None


def bearer(key: NewKey) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key.secret}"),)


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    assert set(RULES) == set(METHODS)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_rule_fits_its_method(name: str) -> None:
    rule, (service, method) = RULES[name], name.split("/")
    if service == "AdminService":
        assert rule.access is Access.ADMIN
    elif service == "ReplicaService":
        assert rule.access is Access.REPLICA
    else:
        assert rule.access is (Access.EDIT if method.startswith(MUTATIONS) else Access.READ)
        # What belongs to a tenant must say where its name stands.
        assert rule.named_in or "Calibration" in method
    message = METHODS[name].input_type
    for step in rule.named_in.split(".") if rule.named_in else ():
        field = message.fields_by_name[step]
        message = field.message_type
    assert rule.named_in == "" or field.type == field.TYPE_STRING


@pytest.mark.parametrize("name", sorted(METHODS))
def test_each_scope_opens_what_the_table_says(channel: grpc.Channel, keys: dict[KeyScope, NewKey], name: str) -> None:
    assert refusal(channel, name, ()) == "missing_credential"
    for scope, key in keys.items():
        opened = RULES[name].access in OPENS[scope]
        # Behind the door the empty request is refused for what it is, if at all.
        assert (refusal(channel, name, bearer(key)) == "scope_required") is not opened, scope


@pytest.mark.parametrize("name", sorted(name for name, rule in RULES.items() if rule.named_in))
def test_a_tenants_key_opens_no_other_tenant(channel: grpc.Channel, keys: dict[KeyScope, NewKey], name: str) -> None:
    method, rule = METHODS[name], RULES[name]
    for tenant in ("bolt", "nobody", "ACME", "acme2", " acme", "", "-acme"):
        assert (
            refusal(channel, name, bearer(keys[KeyScope.EDIT]), named(method, rule.named_in, tenant)) == "wrong_tenant"
        )


def named(method: Any, path: str, tenant: str) -> bytes:
    """Return a request that names something of a tenant."""
    request = new_message(method.input_type)
    *steps, field = path.split(".")
    holder = request
    for step in steps:
        holder = getattr(holder, step)
    setattr(holder, field, f"tenants/{tenant}" if field == "parent" else f"tenants/{tenant}/codebooks/facts")
    data: bytes = request.SerializeToString()
    return data


@pytest.mark.parametrize(
    "sent",
    [
        (("authorization", "Bearer hk_made-up"),),
        (("authorization", "Basic abc"),),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        "twice",
        "revoked",
        "expired",
        "digest",
        "padded",
    ],
)
def test_all_bad_credentials_are_refused_alike(
    channel: grpc.Channel, keys: dict[KeyScope, NewKey], add_key: Callable[..., NewKey], registry: Any, sent: Any
) -> None:
    key = keys[KeyScope.READ]
    if sent == "twice":
        sent = bearer(key) * 2
    elif sent == "revoked":
        registry.revoke_key(key.key_id)
        sent = bearer(key)
    elif sent == "expired":
        sent = bearer(add_key(KeyScope.READ, ACME, lifetime_s=1e-6))
    elif sent == "digest":
        sent = (("authorization", f"Bearer {key.digest}"),)
    elif sent == "padded":
        sent = (("authorization", f"Bearer {key.secret}A"),)
    call = channel.unary_unary("/horen.v1.CodebookService/ListCodebooks")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=5, metadata=sent)
    failure: Any = caught.value
    assert failure.code() is grpc.StatusCode.UNAUTHENTICATED
    assert dict(failure.trailing_metadata())["horen-error-code"] == "invalid_credential"
    assert failure.details() == "the API key is not valid."


def test_a_tenant_works_in_its_own_place(
    keyed: ControlServer, dial: Callable[..., HorenClient], keys: dict[KeyScope, NewKey]
) -> None:
    editor, reader = dial(keyed, keys[KeyScope.EDIT]), dial(keyed, keys[KeyScope.READ])
    book = editor.create_codebook("facts", preset="cosine", threshold=0.9)
    assert book.name == CodebookName(ACME, "facts")
    edit = editor.submit_edit("facts", EditSpec(prompt="Who leads Acme?", target="Ada"))
    assert edit.codebook == book.name
    assert reader.get_edit(edit.edit_id).edit_id == reader.get_edit(edit).edit_id == edit.edit_id
    assert [it.name for it in reader.list_codebooks()] == [it.name for it in reader.list_codebooks(ACME)] == [book.name]
    with pytest.raises(PermissionDenied) as caught:
        reader.submit_edit("facts", EditSpec(prompt="Who leads Bolt?", target="Bea"))
    assert caught.value.code == "scope_required"


def test_existing_and_unknown_tenants_are_refused_in_the_same_words(
    keyed: ControlServer, dial: Callable[..., HorenClient], keys: dict[KeyScope, NewKey]
) -> None:
    reader, said = dial(keyed, keys[KeyScope.READ]), []
    for tenant in (BOLT, "nobody"):
        with pytest.raises(HorenError) as caught:
            list(reader.list_codebooks(tenant))
        said.append((type(caught.value), caught.value.code, caught.value.message.replace(tenant, "T")))
    assert said[0] == said[1]
    assert said[0][:2] == (PermissionDenied, "wrong_tenant")


def test_an_admin_acts_for_any_tenant_but_must_name_one(
    keyed: ControlServer, dial: Callable[..., HorenClient], keys: dict[KeyScope, NewKey]
) -> None:
    admin = dial(keyed, keys[KeyScope.ADMIN])
    admin.create_codebook(CodebookName(BOLT, "facts"), preset="cosine", threshold=0.9)
    assert len(list(admin.list_codebooks(BOLT))) == 1
    assert {tenant.name for tenant in admin.list_tenants()} == {"acme", "bolt", "default"}
    with pytest.raises(InvalidArgument) as caught:
        list(admin.list_codebooks())
    assert caught.value.code == "tenant_required"


def test_a_replica_needs_no_more_than_its_scope(
    keyed: ControlServer, dial: Callable[..., HorenClient], keys: dict[KeyScope, NewKey]
) -> None:
    replica = dial(keyed, keys[KeyScope.REPLICA])
    assert not replica.sync("r", model="demo-model", fingerprint="f" * 64, known={})
    assert replica.resolve_key(keys[KeyScope.READ].digest).tenant == ACME
    with pytest.raises(PermissionDenied):
        list(replica.list_codebooks(ACME))


def test_without_keys_the_own_tenant_is_the_default_one(client: HorenClient) -> None:
    client.create_codebook("facts", preset="cosine", threshold=0.9)
    assert [str(it.name) for it in client.list_codebooks()] == ["tenants/default/codebooks/facts"]
    with pytest.raises(NotFound):
        client.get_codebook("tenants/nobody/codebooks/facts")
