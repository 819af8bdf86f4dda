"""Contract of `ports.TenantStore.rotate_key`."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from horen_vllm.errors import AlreadyExists, FailedPrecondition, NotFound
from horen_vllm.ids import TenantId
from horen_vllm.keys import NewKey, new_key
from horen_vllm.registry.models import KeyRecord, KeyScope, RequestKey
from horen_vllm.registry.ports import Registry

DAY_S = 86_400.0


@pytest.fixture
def acme(registry: Registry) -> TenantId:
    return registry.create_tenant(TenantId("acme")).name


def add(registry: Registry, tenant: TenantId, lifetime_s: float | None = None) -> NewKey:
    made = new_key()
    registry.add_key(made.key_id, made.digest, tenant=tenant, scope=KeyScope.EDIT, lifetime_s=lifetime_s)
    return made


def rotate(
    registry: Registry, key_id: str, overlap_s: float = DAY_S, request: RequestKey | None = None, **more: bool
) -> tuple[NewKey, KeyRecord]:
    made = new_key()
    return made, registry.rotate_key(key_id, made.key_id, made.digest, overlap_s=overlap_s, request=request, **more)


def valid(registry: Registry, key: NewKey) -> bool:
    try:
        return registry.resolve_key(key.digest).key_id == key.key_id
    except NotFound:
        return False


def test_both_keys_work_for_the_overlap_and_then_the_new_one(
    registry: Registry, acme: TenantId, advance: Callable[[float], None], now: Callable[[], datetime]
) -> None:
    old = add(registry, acme)
    new, record = rotate(registry, old.key_id)
    assert (record.tenant, record.scope, record.created_at, record.expires_at) == (acme, KeyScope.EDIT, now(), None)
    advance(DAY_S - 1)
    assert (valid(registry, old), valid(registry, new)) == (True, True)
    advance(1)
    assert (valid(registry, old), valid(registry, new)) == (False, True)


def test_a_successor_lives_as_long_as_the_key_was_made_for(
    registry: Registry, acme: TenantId, advance: Callable[[float], None], now: Callable[[], datetime]
) -> None:
    old = add(registry, acme, lifetime_s=30 * DAY_S)
    advance(29.5 * DAY_S)
    _, record = rotate(registry, old.key_id)
    assert record.expires_at == now() + timedelta(days=30)
    advance(0.5 * DAY_S)
    assert not valid(registry, old), "an overlap does not make a key live longer"


def test_without_an_overlap_the_old_key_ends_at_once(registry: Registry, acme: TenantId) -> None:
    old = add(registry, acme)
    new, _ = rotate(registry, old.key_id, overlap_s=0.0)
    assert (valid(registry, old), valid(registry, new)) == (False, True)


def test_what_has_ended_has_no_successor(registry: Registry, acme: TenantId, advance: Callable[[float], None]) -> None:
    revoked, expired = add(registry, acme), add(registry, acme, lifetime_s=60)
    registry.revoke_key(revoked.key_id)
    advance(60)
    for key in (revoked, expired):
        with pytest.raises(FailedPrecondition) as caught:
            rotate(registry, key.key_id)
        assert caught.value.code == "key_ended"
    with pytest.raises(NotFound) as unknown:
        rotate(registry, "k000000000000")
    assert unknown.value.code == "unknown_key"
    assert len(registry.list_keys(acme)) == 2


def test_a_repeated_request_makes_no_second_key(registry: Registry, acme: TenantId) -> None:
    old = add(registry, acme)
    request = RequestKey(tenant=None, method="RotateKey", request_id="r", digest="d" * 64)
    _, first = rotate(registry, old.key_id, request=request)
    with pytest.raises(AlreadyExists) as caught:
        rotate(registry, old.key_id, request=request)
    assert caught.value.code == "key_already_made"
    assert first.key_id in caught.value.message
    assert len(registry.list_keys(acme)) == 2


def test_a_dry_run_changes_nothing(registry: Registry, acme: TenantId) -> None:
    old = add(registry, acme)
    new, record = rotate(registry, old.key_id, overlap_s=0.0, validate_only=True)
    assert record.scope is KeyScope.EDIT
    assert (valid(registry, old), valid(registry, new)) == (True, False)
    assert [it.method for it in registry.list_audit_events(acme)] == ["CreateTenant", "CreateKey"]


def test_rotations_are_in_the_audit_log(registry: Registry, acme: TenantId) -> None:
    old = add(registry, acme)
    _, record = rotate(registry, old.key_id)
    event = registry.list_audit_events(acme)[-1]
    assert (event.method, event.resource, event.tenant) == ("RotateKey", f"keys/{old.key_id}", acme)
    assert event.detail == {"successor": f"keys/{record.key_id}", "overlap_s": DAY_S}
