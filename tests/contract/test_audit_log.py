"""The audit log: one event a change, by whoever asked, and no way to change it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Engine, create_engine, exc, text

from horen_vllm.errors import NotFound
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.audit import Caller, acting_as
from horen_vllm.registry.models import AuditRecord, EditRecord, KeyScope
from horen_vllm.registry.ports import Registry

ALICE = Caller(actor="keys/k1", call_id="call-1")
Publish = Callable[..., EditRecord]


def test_an_event_says_who_did_what_to_what_and_when(
    registry: Registry, book: CodebookName, publish: Publish, now: Callable[[], object]
) -> None:
    publish(book)
    seen = len(registry.list_audit_events())
    with acting_as(ALICE):
        registry.rollback(book, 1)
        registry.delete_codebook(book)
        registry.create_tenant(TenantId("globex"))
        registry.add_key("k2", "digest", tenant=None, scope=KeyScope.ADMIN, lifetime_s=None)
    events = list(registry.list_audit_events())[seen:]
    assert [replace(event, number=0) for event in events] == [
        AuditRecord(
            number=0,
            created_at=now(),  # type: ignore[arg-type]
            actor="keys/k1",
            method=method,
            tenant=None if tenant is None else TenantId(tenant),
            resource=resource,
            call_id="call-1",
            detail=detail,
        )
        for method, tenant, resource, detail in (
            ("RollbackCodebook", "acme", str(book), {"to_revision": 1, "revision": 3}),
            ("DeleteCodebook", "acme", str(book), {}),
            ("CreateTenant", "globex", "tenants/globex", {}),
            ("CreateKey", None, "keys/k2", {"scope": "admin"}),
        )
    ]


def test_events_come_in_order_in_pages_and_by_tenant(registry: Registry, book: CodebookName) -> None:
    for name in ("globex", "initech"):
        registry.create_tenant(TenantId(name))
    numbers = [event.number for event in registry.list_audit_events()]
    assert numbers == sorted(set(numbers))
    assert [event.number for event in registry.list_audit_events(after=numbers[0], limit=1)] == [numbers[1]]
    (event,) = registry.list_audit_events(TenantId("globex"))
    assert event.resource == "tenants/globex"
    assert [event.resource for event in registry.list_audit_events(book.tenant)] == [str(book)]


def test_what_was_not_done_leaves_no_event(registry: Registry, book: CodebookName) -> None:
    before = registry.list_audit_events()
    with pytest.raises(NotFound):
        registry.rollback(book, 9)
    registry.rollback(book, 1, validate_only=True)
    assert registry.list_audit_events() == before


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    opened = create_engine(request.getfixturevalue(f"{request.param}_url"))
    yield opened
    opened.dispose()


INSERT = (
    "INSERT INTO audit_log (created_at, actor, method, resource, detail) "
    "VALUES ('2026-11-29 00:00:00', 'keys/k1', 'RevokeKey', 'keys/k1', '{}')"
)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_log SET actor = 'nobody'", "DELETE FROM audit_log", "DELETE FROM audit_log WHERE number = 1"],
)
def test_an_event_is_not_changed_by_any_statement(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(INSERT))
    with pytest.raises(exc.DBAPIError, match="the audit log only grows"), engine.begin() as connection:
        connection.execute(text(statement))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT actor, method FROM audit_log")).all() == [("keys/k1", "RevokeKey")]


def test_the_log_is_not_emptied(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    with pytest.raises(exc.DBAPIError, match="the audit log only grows"), engine.begin() as connection:
        connection.execute(text("TRUNCATE audit_log"))
    engine.dispose()
