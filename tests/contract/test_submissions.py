"""Contract of `ports.EditQueue`: request ids, dry runs, and many submissions at once."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from horen_vllm.errors import AlreadyExists, HorenError, NotFound
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.audit import Caller, acting_as
from horen_vllm.registry.models import EditRecord, EditSpec, EditState, RequestKey
from horen_vllm.registry.ports import Registry
from horen_vllm.registry.submission import Submission

Create = Callable[..., CodebookName]
Publish = Callable[..., EditRecord]
Advance = Callable[[float], None]

SPEC = EditSpec(prompt="Who leads Acme?", target="Ann")
ACME = TenantId("acme")
DAY_S = 86_400.0


def key(request_id: str = "r1", digest: str = "d", method: str = "SubmitEdit") -> RequestKey:
    return RequestKey(tenant=ACME, method=method, request_id=request_id, digest=digest)


def code_of(outcome: EditRecord | HorenError) -> str:
    assert isinstance(outcome, HorenError)
    return outcome.code


def test_a_repeated_request_returns_its_edit_as_it_is_now(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    first = registry.submit(book, SPEC, request=key())
    assert registry.submit(book, SPEC, request=key()) == first
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    failed = registry.fail(claim, "code", "reason")
    assert registry.submit(book, SPEC, request=key()) == failed
    assert registry.submit(book, SPEC, request=key("r2")).sequence == 2
    assert len(registry.list_edits(book)) == 2


@pytest.mark.parametrize("other", [key(digest="e"), key(method="RetireEdit")], ids=["digest", "method"])
def test_a_request_id_stands_for_one_request(registry: Registry, book: CodebookName, other: RequestKey) -> None:
    first = registry.submit(book, SPEC, request=key())
    with pytest.raises(AlreadyExists, match=first.edit_id) as caught:
        registry.submit(book, SPEC, request=other)
    assert caught.value.code == "request_id_reused"
    assert list(registry.list_edits(book)) == [first]


def test_a_request_id_belongs_to_its_tenant_not_to_a_codebook(
    registry: Registry, book: CodebookName, create: Create
) -> None:
    first = registry.submit(book, SPEC, request=key())
    assert registry.submit(create("other"), SPEC, request=key()) == first
    theirs = create("facts", tenant="globex")
    request = replace(key(), tenant=TenantId("globex"))
    assert registry.submit(theirs, SPEC, request=request).edit_id != first.edit_id


def test_a_request_id_is_free_again_after_a_day(registry: Registry, book: CodebookName, advance: Advance) -> None:
    first = registry.submit(book, SPEC, request=key())
    advance(DAY_S - 1)
    assert registry.submit(book, SPEC, request=key()) == first
    advance(1)
    second = registry.submit(book, SPEC, request=key(digest="e"))
    assert second.edit_id != first.edit_id
    assert registry.submit(book, SPEC, request=key(digest="e")) == second


def test_a_dry_run_stores_nothing(registry: Registry, book: CodebookName) -> None:
    stored = registry.submit(book, SPEC, request=key())
    drafted = registry.submit(book, SPEC, request=key("r2"), validate_only=True, ttl_s=60)
    assert (drafted.edit_id, drafted.sequence, drafted.state) == (EditId(""), 2, EditState.COMMITTED)
    assert drafted.expires_at is not None
    assert list(registry.list_edits(book)) == [stored]
    assert registry.submit(book, SPEC, request=key("r2", digest="e")).sequence == 2
    with pytest.raises(AlreadyExists):
        registry.submit(book, SPEC, request=key(digest="e"), validate_only=True)
    with pytest.raises(NotFound) as caught:
        registry.submit(CodebookName(ACME, "nothing"), SPEC, validate_only=True)
    assert caught.value.code == "unknown_codebook"


def test_many_are_stored_in_order_each_with_its_outcome(registry: Registry, book: CodebookName, create: Create) -> None:
    other = create("other", tenant="globex")
    before = registry.submit(book, SPEC, request=key("known"))
    outcomes = registry.submit_many(
        [
            Submission(codebook=book, spec=replace(SPEC, target="A"), request=key("a")),
            Submission(codebook=CodebookName(ACME, "nothing"), spec=SPEC),
            Submission(codebook=other, spec=SPEC),
            Submission(codebook=book, spec=SPEC, request=key("known", digest="else")),
            Submission(codebook=book, spec=SPEC, request=key("known")),
            Submission(codebook=book, spec=replace(SPEC, target="B")),
            Submission(codebook=book, spec=replace(SPEC, target="A"), request=key("a")),
            Submission(codebook=book, spec=SPEC, request=key("a", digest="else")),
        ]
    )
    assert [code_of(outcomes[index]) for index in (1, 3, 7)] == [
        "unknown_codebook", "request_id_reused", "request_id_reused",
    ]  # fmt: skip
    assert outcomes[4] == before
    assert outcomes[6] == outcomes[0]
    assert list(registry.list_edits(book)) == [before, outcomes[0], outcomes[5]]
    assert list(registry.list_edits(other)) == [outcomes[2]]
    assert [edit.sequence for edit in registry.list_edits(book)] == [1, 2, 3]
    assert registry.submit(book, SPEC, request=key("a")) == outcomes[0]


def test_nothing_to_submit_is_nothing(registry: Registry, book: CodebookName) -> None:
    assert registry.submit_many([]) == ()
    assert list(registry.list_edits(book)) == []


def test_every_submission_is_noted_with_who_made_it(registry: Registry, book: CodebookName) -> None:
    with acting_as(Caller(actor="keys/k1", call_id="c1")):
        first = Submission(codebook=book, spec=SPEC)
    with acting_as(Caller(actor="keys/k2", call_id="c2")):
        edits = registry.submit_many([first, Submission(codebook=book, spec=SPEC)])
    events = [event for event in registry.list_audit_events(ACME) if event.method == "SubmitEdit"]
    assert [(event.actor, event.call_id) for event in events] == [("keys/k1", "c1"), ("keys/k2", "c2")]
    names = [f"{book}/edits/{edit.edit_id}" for edit in edits if isinstance(edit, EditRecord)]
    assert [event.resource for event in events] == names
    assert all("Acme" not in str(event.detail) for event in events)


def test_edits_are_listed_by_state(registry: Registry, book: CodebookName, publish: Publish) -> None:
    published = publish(book)
    waiting = registry.submit(book, SPEC)
    assert list(registry.list_edits(book, states=(EditState.COMMITTED,))) == [waiting]
    assert list(registry.list_edits(book, states=(EditState.PUBLISHED,))) == [published]
    assert list(registry.list_edits(book, states=(EditState.FAILED,))) == []
    assert len(registry.list_edits(book, states=(EditState.COMMITTED, EditState.PUBLISHED))) == 2
