"""Contract of `ports.TenantStore`."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from horen_vllm.errors import AlreadyExists, NotFound
from horen_vllm.ids import DEFAULT_TENANT, TenantId
from horen_vllm.keys import NewKey, new_key
from horen_vllm.registry.models import KeyRecord, KeyScope, TenantRecord
from horen_vllm.registry.ports import Registry

ACME, GLOBEX, NOBODY = TenantId("acme"), TenantId("globex"), TenantId("nobody")


@pytest.fixture
def acme(registry: Registry) -> TenantId:
    return registry.create_tenant(ACME).name


def add(
    registry: Registry,
    tenant: TenantId | None,
    scope: KeyScope = KeyScope.READ,
    lifetime_s: float | None = None,
) -> tuple[NewKey, KeyRecord]:
    made = new_key()
    return made, registry.add_key(made.key_id, made.digest, tenant=tenant, scope=scope, lifetime_s=lifetime_s)


def test_the_default_tenant_is_always_there(registry: Registry) -> None:
    assert [record.name for record in registry.list_tenants()] == [DEFAULT_TENANT]
    assert registry.get_tenant(DEFAULT_TENANT).created_at.tzinfo is not None


def test_tenants_are_listed_by_name(registry: Registry, now: Callable[[], datetime]) -> None:
    for name in ("b", "a-b", "ab", "a"):
        made = registry.create_tenant(TenantId(name))
        assert made == registry.get_tenant(TenantId(name)) == TenantRecord(name=TenantId(name), created_at=now())
    names = [record.name for record in registry.list_tenants()]
    assert names == ["a", "a-b", "ab", "b", "default"]
    assert [record.name for record in registry.list_tenants(after="a-b", limit=2)] == names[2:4]


def test_a_tenant_is_made_once(registry: Registry, acme: TenantId) -> None:
    with pytest.raises(AlreadyExists) as caught:
        registry.create_tenant(acme)
    assert caught.value.code == "tenant_exists"


def test_a_key_belongs_to_a_known_tenant(registry: Registry) -> None:
    for call in (lambda: registry.get_tenant(NOBODY), lambda: add(registry, NOBODY)):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.code == "unknown_tenant"


def test_a_key_is_found_by_its_digest(registry: Registry, acme: TenantId, now: Callable[[], datetime]) -> None:
    made, record = add(registry, acme, KeyScope.EDIT, lifetime_s=60)
    assert registry.resolve_key(made.digest) == record
    assert record == KeyRecord(
        key_id=made.key_id,
        tenant=acme,
        scope=KeyScope.EDIT,
        created_at=now(),
        expires_at=now() + timedelta(seconds=60),
        revoked_at=None,
    )
    _, admin = add(registry, None, KeyScope.ADMIN)
    assert (admin.tenant, admin.expires_at) == (None, None)


def test_unknown_expired_and_revoked_keys_look_the_same(
    registry: Registry, acme: TenantId, advance: Callable[[float], None]
) -> None:
    expired, revoked = add(registry, acme, lifetime_s=60)[0], add(registry, acme)[0]
    registry.revoke_key(revoked.key_id)
    advance(60)
    said = set()
    for digest in (new_key().digest, expired.digest, revoked.digest):
        with pytest.raises(NotFound) as caught:
            registry.resolve_key(digest)
        said.add((caught.value.code, caught.value.message))
    assert len(said) == 1
    assert said.pop()[0] == "unknown_key"


def test_a_key_lives_until_the_end_of_its_time(
    registry: Registry, acme: TenantId, advance: Callable[[float], None]
) -> None:
    made, record = add(registry, acme, lifetime_s=60)
    advance(59.9)
    assert registry.resolve_key(made.digest) == record


def test_a_revoked_key_stays_revoked_since_the_first_time(
    registry: Registry, acme: TenantId, now: Callable[[], datetime], advance: Callable[[float], None]
) -> None:
    made, _ = add(registry, acme)
    first = now()
    assert registry.revoke_key(made.key_id).revoked_at == first
    advance(5)
    assert registry.revoke_key(made.key_id).revoked_at == first
    with pytest.raises(NotFound) as caught:
        registry.revoke_key("k0")
    assert caught.value.code == "unknown_key"


def test_keys_are_listed_for_a_tenant_or_for_all(registry: Registry, acme: TenantId) -> None:
    registry.create_tenant(GLOBEX)
    own = [add(registry, acme)[1] for _ in range(3)]
    other, admin = add(registry, GLOBEX)[1], add(registry, None, KeyScope.ADMIN)[1]
    registry.revoke_key(own[0].key_id)
    listed = registry.list_keys(acme)
    assert [key.key_id for key in listed] == sorted(key.key_id for key in own)
    assert {key.key_id for key in listed if key.revoked_at} == {own[0].key_id}
    everyone = [key.key_id for key in registry.list_keys()]
    assert everyone == sorted([*(key.key_id for key in own), other.key_id, admin.key_id])
    assert [key.key_id for key in registry.list_keys(after=everyone[1], limit=2)] == everyone[2:4]
