"""Contract of `ports.QuotaStore`, and of quotas where something is stored."""

from collections.abc import Callable

import pytest

from horen_vllm.errors import NotFound, ResourceExhausted
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.models import EditRecord, EditSpec, QuotaRecord, RequestKey, UsageRecord
from horen_vllm.registry.ports import Registry
from horen_vllm.registry.submission import Submission

Create = Callable[..., CodebookName]
Publish = Callable[..., EditRecord]
Advance = Callable[[float], None]

SPEC = EditSpec(prompt="p", target="t")
ACME = TenantId("acme")


@pytest.fixture
def book(registry: Registry, create: Create) -> CodebookName:
    registry.create_tenant(ACME)
    return create()


def submit(registry: Registry, book: CodebookName, count: int) -> list[bool]:
    """Submit some edits at once; return which were stored."""
    outcomes = registry.submit_many([Submission(codebook=book, spec=SPEC)] * count)
    refused = [it for it in outcomes if not isinstance(it, EditRecord)]
    assert {it.code for it in refused} <= {"quota_exceeded"}
    return [isinstance(it, EditRecord) for it in outcomes]


def retry_after(registry: Registry, book: CodebookName) -> float | None:
    with pytest.raises(ResourceExhausted) as caught:
        registry.submit(book, SPEC)
    assert caught.value.code == "quota_exceeded"
    return caught.value.retry_after_s


def test_a_tenant_has_no_limits_until_it_gets_some(registry: Registry, book: CodebookName, publish: Publish) -> None:
    assert registry.get_quota(ACME) == (QuotaRecord(tenant=ACME), UsageRecord(codebooks=1, entries=0, pending=0))
    publish(book)
    registry.submit(book, SPEC)
    assert registry.get_quota(ACME)[1] == UsageRecord(codebooks=1, entries=1, pending=1)


def test_limits_are_set_one_by_one(registry: Registry, book: CodebookName) -> None:
    registry.update_quota(ACME, {"max_entries": 10, "max_pending": 5})
    quota, _ = registry.update_quota(ACME, {"max_pending": None, "edits_per_minute": 7})
    assert quota == QuotaRecord(tenant=ACME, max_entries=10, edits_per_minute=7) == registry.get_quota(ACME)[0]
    drafted, _ = registry.update_quota(ACME, {"max_codebooks": 1}, validate_only=True)
    assert drafted == QuotaRecord(tenant=ACME, max_entries=10, edits_per_minute=7, max_codebooks=1)
    assert registry.get_quota(ACME)[0] == quota


def test_a_repeated_update_changes_nothing(registry: Registry, book: CodebookName) -> None:
    request = RequestKey(tenant=None, method="UpdateQuota", request_id="r1", digest="d")
    registry.update_quota(ACME, {"max_pending": 1}, request=request)
    registry.update_quota(ACME, {"max_pending": 2})
    assert registry.update_quota(ACME, {"max_pending": 1}, request=request)[0].max_pending == 2


@pytest.mark.parametrize("validate_only", [False, True])
def test_an_unknown_tenant_has_no_quota(registry: Registry, validate_only: bool) -> None:
    with pytest.raises(NotFound) as caught:
        registry.get_quota(ACME)
    assert caught.value.code == "unknown_tenant"
    with pytest.raises(NotFound):
        registry.update_quota(ACME, {"max_pending": 1}, validate_only=validate_only)


def test_unfinished_edits_are_limited_over_all_codebooks(
    registry: Registry, book: CodebookName, create: Create
) -> None:
    registry.update_quota(ACME, {"max_pending": 3})
    other = create("other")
    assert submit(registry, other, 1) == [True]
    assert submit(registry, book, 3) == [True, True, False]
    assert retry_after(registry, book) == 5.0
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    registry.fail(claim, "code", "reason")
    assert submit(registry, book, 2) == [True, False]


def test_entries_and_unfinished_edits_are_limited_together(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    registry.update_quota(ACME, {"max_entries": 2})
    edit = publish(book)
    assert submit(registry, book, 2) == [True, False]
    assert retry_after(registry, book) is None
    registry.retire_edit(edit.edit_id)
    assert submit(registry, book, 2) == [True, False]


def test_the_rate_is_that_of_any_minute(registry: Registry, book: CodebookName, advance: Advance) -> None:
    registry.update_quota(ACME, {"edits_per_minute": 3})
    assert submit(registry, book, 1) == [True]
    advance(20)
    assert submit(registry, book, 5) == [True, True, False, False, False]
    assert retry_after(registry, book) == 40.0
    advance(39.9)
    assert submit(registry, book, 1) == [False]
    advance(0.1)
    assert submit(registry, book, 2) == [True, False]
    assert retry_after(registry, book) == 20.0
    advance(20)
    assert submit(registry, book, 5) == [True, True, False, False, False]


def test_a_repeated_request_uses_nothing_up(registry: Registry, book: CodebookName) -> None:
    registry.update_quota(ACME, {"max_pending": 1})
    request = RequestKey(tenant=ACME, method="SubmitEdit", request_id="r1", digest="d")
    first = registry.submit(book, SPEC, request=request)
    assert registry.submit(book, SPEC, request=request) == first
    with pytest.raises(ResourceExhausted):
        registry.submit(book, SPEC, validate_only=True)


def test_a_limit_of_nothing_is_a_limit(registry: Registry, book: CodebookName) -> None:
    registry.update_quota(ACME, {"edits_per_minute": 0})
    assert retry_after(registry, book) == 60.0
    registry.update_quota(ACME, {"edits_per_minute": None})
    assert submit(registry, book, 1) == [True]


def test_codebooks_are_limited(registry: Registry, book: CodebookName, create: Create) -> None:
    registry.update_quota(ACME, {"max_codebooks": 2})
    create("second")
    with pytest.raises(ResourceExhausted) as caught:
        create("third")
    assert (caught.value.code, caught.value.retry_after_s) == ("quota_exceeded", None)
    registry.delete_codebook(book)
    create("third")


def test_tenants_do_not_share_their_limits(registry: Registry, book: CodebookName, create: Create) -> None:
    registry.update_quota(ACME, {"max_pending": 0})
    theirs = create("facts", tenant="globex")
    outcomes = registry.submit_many([Submission(codebook=it, spec=SPEC) for it in (book, theirs)])
    assert [isinstance(it, EditRecord) for it in outcomes] == [False, True]
