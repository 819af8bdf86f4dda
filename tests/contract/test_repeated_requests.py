"""Request ids and dry runs of what is done to codebooks, tenants and keys."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from horen_vllm.errors import AlreadyExists, HorenError, NotFound
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.models import EditRecord, KeyScope, RequestKey
from horen_vllm.registry.ports import Registry

from .conftest import PARAMETERS

Publish = Callable[..., EditRecord]
ACME = TenantId("acme")
DAY_S = 86_400.0


def key(request_id: str = "r1", digest: str = "d", method: str = "M") -> RequestKey:
    return RequestKey(tenant=ACME, method=method, request_id=request_id, digest=digest)


def create(registry: Registry, name: str, **options: object) -> object:
    book = CodebookName(ACME, name)
    return registry.create_codebook(
        book,
        model="m",
        fingerprint="fp",
        site="s",
        parameters=PARAMETERS,
        **options,  # type: ignore[arg-type]
    )


def add_key(registry: Registry, key_id: str, **options: object) -> object:
    return registry.add_key(
        key_id,
        f"{key_id}-digest",
        tenant=None,
        scope=KeyScope.ADMIN,
        lifetime_s=None,
        **options,  # type: ignore[arg-type]
    )


def test_a_codebook_is_made_once(registry: Registry, publish: Publish) -> None:
    create(registry, "facts", request=key())
    publish(CodebookName(ACME, "facts"))
    again = create(registry, "facts", request=key())
    assert again == registry.get_codebook(CodebookName(ACME, "facts"))
    with pytest.raises(AlreadyExists) as caught:
        create(registry, "facts", request=key("r2"))
    assert caught.value.code == "codebook_exists"


def test_a_rollback_is_made_once(registry: Registry, book: CodebookName, publish: Publish) -> None:
    publish(book)
    made = registry.rollback(book, 1, request=key())
    publish(book)
    assert registry.rollback(book, 1, request=key()) == made
    assert registry.get_codebook(book).revision == 4
    with pytest.raises(AlreadyExists) as caught:
        registry.rollback(book, 2, request=key(digest="other"))
    assert caught.value.code == "request_id_reused"
    assert registry.get_codebook(book).revision == 4


def test_a_codebook_is_deleted_and_brought_back_once(registry: Registry, book: CodebookName) -> None:
    deleted = registry.delete_codebook(book, request=key())
    assert registry.delete_codebook(book, request=key()) == deleted
    back = registry.undelete_codebook(book, request=key("r2"))
    assert registry.undelete_codebook(book, request=key("r2")) == back
    # The answer is the codebook as it is now, and nothing is deleted a second time.
    assert registry.delete_codebook(book, request=key()) == back
    assert registry.get_codebook(book).deleted_at is None


def test_a_tenant_is_made_once(registry: Registry) -> None:
    made = registry.create_tenant(TenantId("globex"), request=key())
    assert registry.create_tenant(TenantId("globex"), request=key()) == made
    with pytest.raises(AlreadyExists) as caught:
        registry.create_tenant(TenantId("globex"))
    assert caught.value.code == "tenant_exists"


def test_a_secret_is_never_told_twice(registry: Registry) -> None:
    add_key(registry, "k1", request=key())
    with pytest.raises(AlreadyExists, match="keys/k1") as caught:
        add_key(registry, "k2", request=key())
    assert caught.value.code == "key_already_made"
    assert [it.key_id for it in registry.list_keys()] == ["k1"]


def test_a_key_is_revoked_once(registry: Registry, advance: Callable[[float], None]) -> None:
    add_key(registry, "k1")
    revoked = registry.revoke_key("k1", request=key())
    advance(5)
    assert registry.revoke_key("k1", request=key()) == revoked
    assert registry.revoke_key("k1") == revoked


def test_an_id_is_free_again_after_a_day(
    registry: Registry, book: CodebookName, advance: Callable[[float], None]
) -> None:
    registry.rollback(book, 1, request=key())
    advance(DAY_S - 1)
    assert registry.rollback(book, 1, request=key()).number == 2
    advance(1)
    assert registry.rollback(book, 1, request=key(digest="other")).number == 3


def test_ids_belong_to_tenants(registry: Registry, book: CodebookName) -> None:
    registry.rollback(book, 1, request=key())
    registry.rollback(book, 1, request=replace(key(), tenant=TenantId("globex")))
    registry.rollback(book, 1, request=replace(key(), tenant=None))
    assert registry.get_codebook(book).revision == 4


CHANGES: dict[str, Callable[[Registry, CodebookName, dict[str, object]], object]] = {
    "create": lambda r, _book, options: create(r, "new", **options),
    "delete": lambda r, book, options: r.delete_codebook(book, **options),  # type: ignore[arg-type]
    "rollback": lambda r, book, options: r.rollback(book, 1, **options),  # type: ignore[arg-type]
    "create_tenant": lambda r, _book, options: r.create_tenant(TenantId("new"), **options),  # type: ignore[arg-type]
    "add_key": lambda r, _book, options: add_key(r, "k9", **options),
    "revoke_key": lambda r, _book, options: r.revoke_key("k1", **options),  # type: ignore[arg-type]
}


def everything(registry: Registry) -> tuple[object, ...]:
    return (
        registry.list_codebooks(deleted=True),
        registry.list_tenants(),
        registry.list_keys(),
        registry.list_audit_events(),
    )


@pytest.mark.parametrize("change", CHANGES)
def test_a_dry_run_changes_nothing(registry: Registry, book: CodebookName, publish: Publish, change: str) -> None:
    publish(book)
    add_key(registry, "k1")
    before = everything(registry)
    dry = CHANGES[change](registry, book, {"validate_only": True})
    assert everything(registry) == before
    made = CHANGES[change](registry, book, {"request": key()})
    assert type(dry) is type(made)
    assert everything(registry) != before


def test_a_dry_run_refuses_what_would_be_refused(registry: Registry, book: CodebookName) -> None:
    calls: list[Callable[[], object]] = [
        lambda: create(registry, book.codebook, validate_only=True),
        lambda: registry.rollback(book, 9, validate_only=True),
        lambda: registry.undelete_codebook(book, validate_only=True),
        lambda: registry.revoke_key("ghost", validate_only=True),
    ]
    for call in calls:
        with pytest.raises(HorenError):
            call()
    assert registry.rollback(book, 1, validate_only=True).number == 0
    registry.delete_codebook(book)
    assert registry.undelete_codebook(book, validate_only=True).deleted_at is None
    with pytest.raises(NotFound):
        registry.entries(book)
