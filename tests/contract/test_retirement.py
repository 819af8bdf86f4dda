"""Contract of `ports.EditQueue`: retirement, expiry, and what rollbacks bring back."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from horen_vllm.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.etags import edit_etag
from horen_vllm.registry.models import EditRecord, EditSpec, EditState, Publication, RequestKey, RevisionKind
from horen_vllm.registry.ports import Registry

Create = Callable[..., CodebookName]
Publish = Callable[..., EditRecord]
Advance = Callable[[float], None]

SPEC = EditSpec(prompt="Who leads Acme?", target="Ann")


def kinds(registry: Registry, book: CodebookName) -> list[RevisionKind]:
    return [revision.kind for revision in registry.list_revisions(book)]


def entry_ids(registry: Registry, book: CodebookName, revision: int | None = None) -> list[EditId]:
    return [entry.edit_id for entry in registry.entries(book, revision)]


def same_as(registry: Registry, book: CodebookName, first: EditRecord, ttl_s: float | None = None) -> EditRecord:
    """Submit an edit that a worker finds said already."""
    edit = registry.submit(book, SPEC, ttl_s=ttl_s)
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    assert claim.edit.edit_id == edit.edit_id
    return registry.finish_same(claim, first.edit_id)


def test_an_active_edit_leaves_in_a_revision_of_its_own(
    registry: Registry, book: CodebookName, publish: Publish, now: Callable[[], object]
) -> None:
    edit, other = publish(book), publish(book)
    retired = registry.retire_edit(edit.edit_id)
    assert (retired.state, retired.active, retired.retired_at) == (EditState.PUBLISHED, False, now())
    assert registry.get_edit(edit.edit_id) == retired
    last = registry.list_revisions(book)[-1]
    assert (last.number, last.kind, last.edit_id, last.entry_count) == (4, RevisionKind.RETIRE, edit.edit_id, 1)
    assert last.threshold == registry.list_revisions(book)[-2].threshold
    assert entry_ids(registry, book) == [other.edit_id]
    assert entry_ids(registry, book, 3) == [edit.edit_id, other.edit_id]
    assert registry.delta(book, 3).removed == (edit.edit_id,)


def test_a_retired_edit_is_returned_as_it_is(
    registry: Registry, book: CodebookName, publish: Publish, advance: Advance
) -> None:
    edit = publish(book)
    retired = registry.retire_edit(edit.edit_id)
    advance(5)
    assert registry.retire_edit(edit.edit_id) == retired
    assert registry.get_codebook(book).revision == 3


def test_an_inactive_edit_is_only_marked(registry: Registry, book: CodebookName, publish: Publish) -> None:
    old = publish(book)
    publish(book, supersedes=(old.edit_id,))
    assert registry.retire_edit(old.edit_id).retired_at is not None
    assert registry.get_codebook(book).revision == 3


def test_an_unfinished_edit_is_closed_and_its_claim_lost(registry: Registry, book: CodebookName) -> None:
    edits = [registry.submit(book, SPEC) for _ in range(3)]
    claims = registry.claim("worker", lease_s=30, fingerprint="fp", limit=3)
    retired = registry.retire_edit(edits[1].edit_id)
    assert (retired.state, retired.reason_code, retired.active) == (EditState.FAILED, "retired", False)
    assert registry.get_codebook(book).revision == 1
    publications = [Publication(artifact=f"{index:064x}", base_revision=1 + index) for index in range(3)]
    with pytest.raises(FailedPrecondition) as caught:
        registry.publish(list(zip(claims, publications, strict=True)))
    assert caught.value.code == "claim_lost"
    assert [claim.edit.edit_id for claim in registry.extend(claims, lease_s=30)] == [
        edits[0].edit_id, edits[2].edit_id,
    ]  # fmt: skip
    registry.publish([(claims[0], publications[0]), (claims[2], publications[1])])
    assert entry_ids(registry, book) == [edits[0].edit_id, edits[2].edit_id]
    assert [attempt.outcome for attempt in registry.attempts(edits[1].edit_id)] == ["retired"]


def test_a_waiting_edit_is_never_handed_out_once_retired(registry: Registry, book: CodebookName) -> None:
    first, second = registry.submit(book, SPEC), registry.submit(book, SPEC)
    registry.retire_edit(first.edit_id)
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp", limit=9)
    assert claim.edit.edit_id == second.edit_id
    assert list(registry.attempts(first.edit_id)) == []


def test_a_failed_edit_stays_failed(registry: Registry, book: CodebookName) -> None:
    edit = registry.submit(book, SPEC)
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    registry.fail(claim, "not_learned", "The loss stayed high.")
    retired = registry.retire_edit(edit.edit_id)
    assert (retired.state, retired.reason_code) == (EditState.FAILED, "not_learned")
    assert retired.retired_at is not None


def test_an_unknown_edit_cannot_be_retired(registry: Registry) -> None:
    with pytest.raises(NotFound) as caught:
        registry.retire_edit(EditId("e000"))
    assert caught.value.code == "unknown_edit"


def test_a_retirement_is_made_once(registry: Registry, book: CodebookName, publish: Publish) -> None:
    edit, other = publish(book), publish(book)
    request = RequestKey(tenant=TenantId("acme"), method="RetireEdit", request_id="r1", digest="d")
    retired = registry.retire_edit(edit.edit_id, request=request)
    registry.rollback(book, 3)
    # What was asked for was done; that it was undone since is no reason to do it again.
    assert registry.retire_edit(edit.edit_id, request=request) == registry.get_edit(edit.edit_id) != retired
    with pytest.raises(AlreadyExists) as caught:
        registry.retire_edit(other.edit_id, request=replace(request, digest="e"))
    assert caught.value.code == "request_id_reused"
    assert registry.get_edit(other.edit_id).active


def test_a_retirement_may_depend_on_what_was_seen(registry: Registry, book: CodebookName, publish: Publish) -> None:
    edit = registry.submit(book, SPEC)
    seen = edit_etag(edit)
    assert registry.retire_edit(edit.edit_id, etag=seen, validate_only=True) == edit
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    with pytest.raises(Aborted) as caught:
        registry.retire_edit(edit.edit_id, etag=seen)
    assert caught.value.code == "etag_mismatch"
    assert registry.get_edit(edit.edit_id) == claim.edit
    assert registry.retire_edit(edit.edit_id, etag=f"{edit_etag(claim.edit)}.training").retired_at is not None


def test_a_dry_run_retires_nothing(registry: Registry, book: CodebookName, publish: Publish) -> None:
    edit = publish(book)
    assert registry.retire_edit(edit.edit_id, validate_only=True) == edit
    assert registry.get_edit(edit.edit_id) == edit
    assert registry.get_codebook(book).revision == 2


def test_a_rollback_brings_a_retired_edit_back(registry: Registry, book: CodebookName, publish: Publish) -> None:
    edit = publish(book)
    registry.retire_edit(edit.edit_id)
    registry.rollback(book, 2)
    back = registry.get_edit(edit.edit_id)
    assert (back.active, back.retired_at) == (True, None)
    registry.rollback(book, 3)
    # Revision 3 lacks it because it was retired; that it was is not undone and done again.
    assert not registry.get_edit(edit.edit_id).active
    assert entry_ids(registry, book) == []


def test_retiring_an_alias_silences_nobody_else(registry: Registry, book: CodebookName, publish: Publish) -> None:
    lender = publish(book)
    alias = registry.submit(book, SPEC)
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    registry.publish([(claim, Publication(artifact="aa", base_revision=2, alias_of=lender.edit_id))])
    registry.retire_edit(lender.edit_id)
    assert entry_ids(registry, book) == [alias.edit_id]
    registry.rollback(book, 3)
    registry.retire_edit(alias.edit_id)
    assert entry_ids(registry, book) == [lender.edit_id]


def test_an_entry_goes_over_to_an_edit_that_said_the_same(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    first = publish(book)
    again, third = same_as(registry, book, first), same_as(registry, book, first)
    assert again.answered_by == first.edit_id
    registry.retire_edit(first.edit_id)
    heir = registry.get_edit(again.edit_id)
    assert (heir.active, heir.artifact, heir.published_revision) == (True, first.artifact, 3)
    assert [(entry.edit_id, entry.artifact) for entry in registry.entries(book)] == [(again.edit_id, first.artifact)]
    assert registry.get_codebook(book).entry_count == 1
    assert registry.get_edit(third.edit_id).answered_by == again.edit_id
    # Who says it from now on says the same as all of them.
    fourth = same_as(registry, book, heir)
    assert (fourth.same_as, fourth.answered_by) == (first.edit_id, again.edit_id)
    registry.rollback(book, 2)
    assert entry_ids(registry, book) == [first.edit_id]
    assert {registry.get_edit(edit.edit_id).answered_by for edit in (again, third, fourth)} == {first.edit_id}
    for edit in (first, again, third):
        registry.retire_edit(edit.edit_id)
        assert registry.get_codebook(book).entry_count == 1
    assert registry.get_edit(fourth.edit_id).active
    registry.retire_edit(fourth.edit_id)
    assert registry.get_codebook(book).entry_count == 0


def test_retiring_an_edit_without_an_entry_leaves_the_entry(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    first = publish(book)
    again = same_as(registry, book, first)
    retired = registry.retire_edit(again.edit_id)
    assert (retired.retired_at is not None, retired.answered_by) == (True, None)
    assert registry.get_codebook(book).revision == 2
    registry.retire_edit(first.edit_id)
    assert entry_ids(registry, book) == []


def test_an_edit_is_retired_when_its_time_has_passed(
    registry: Registry, book: CodebookName, publish: Publish, advance: Advance, now: Callable[[], object]
) -> None:
    lasting = publish(book)
    edit = registry.submit(book, SPEC, ttl_s=60)
    assert edit.expires_at == edit.created_at + timedelta(seconds=60)
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    registry.publish([(claim, Publication(artifact="aa", base_revision=2))])
    advance(59)
    assert registry.retire_expired() == 0
    advance(1)
    assert registry.retire_expired() == 1
    assert registry.retire_expired() == 0
    gone = registry.get_edit(edit.edit_id)
    assert (gone.active, gone.retired_at) == (False, now())
    assert entry_ids(registry, book) == [lasting.edit_id]
    event = registry.list_audit_events(TenantId("acme"))[-1]
    assert (event.method, event.actor, event.resource) == ("RetireEdit", "ttl", f"{book}/edits/{edit.edit_id}")


def test_every_edit_expires_whatever_became_of_it(
    registry: Registry, book: CodebookName, create: Create, publish: Publish, advance: Advance
) -> None:
    waiting = registry.submit(create("other", fingerprint="other"), SPEC, ttl_s=60)
    failed = registry.submit(book, SPEC, ttl_s=60)
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    registry.fail(claim, "code", "reason")
    first = publish(book)
    again = same_as(registry, book, first, ttl_s=60)
    advance(61)
    assert registry.retire_expired(limit=2) == 2
    assert registry.retire_expired(limit=2) == 1
    assert registry.get_edit(waiting.edit_id).reason_code == "retired"
    assert registry.get_edit(failed.edit_id).reason_code == "code"
    assert registry.get_edit(again.edit_id).answered_by is None
    assert registry.get_edit(first.edit_id).active


def test_what_was_said_again_without_an_end_outlives_the_first(
    registry: Registry, book: CodebookName, advance: Advance
) -> None:
    first = registry.submit(book, SPEC, ttl_s=60)
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    registry.publish([(claim, Publication(artifact="aa", base_revision=1))])
    brief, lasting = same_as(registry, book, first, ttl_s=60), same_as(registry, book, first)
    advance(60)
    assert registry.retire_expired() == 2
    assert entry_ids(registry, book) == [lasting.edit_id]
    assert registry.get_edit(brief.edit_id).answered_by is None


def test_a_rollback_never_shows_what_has_expired(
    registry: Registry, book: CodebookName, publish: Publish, advance: Advance
) -> None:
    lasting = publish(book)
    edit = registry.submit(book, SPEC, ttl_s=60)
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    registry.publish([(claim, Publication(artifact="aa", base_revision=2))])
    registry.rollback(book, 1)
    advance(60)
    for _ in range(2):
        back = registry.rollback(book, 3)
        assert back.kind is RevisionKind.ROLLBACK
        assert entry_ids(registry, book, back.number) == [lasting.edit_id, edit.edit_id]
        assert registry.get_codebook(book).revision == back.number + 1
        assert entry_ids(registry, book) == [lasting.edit_id]
        assert registry.get_edit(edit.edit_id).retired_at is not None
        registry.retire_expired()
    assert kinds(registry, book)[-2:] == [RevisionKind.ROLLBACK, RevisionKind.RETIRE]
