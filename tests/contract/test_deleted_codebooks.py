"""Deleted codebooks: gone for everybody, kept for whoever wants them back."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest

from horen_vllm.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.etags import codebook_etag
from horen_vllm.registry.models import EditRecord, EditSpec, EditState, Publication
from horen_vllm.registry.ports import Registry

Create = Callable[..., CodebookName]
Publish = Callable[..., EditRecord]
SPEC = EditSpec(prompt="p", target="t")


@pytest.mark.parametrize(
    "call",
    [
        lambda r, book: r.list_revisions(book),
        lambda r, book: r.entries(book),
        lambda r, book: r.delta(book, 0),
        lambda r, book: r.diff(book, from_revision=0),
        lambda r, book: r.rollback(book, 1),
        lambda r, book: r.submit(book, SPEC),
        lambda r, book: r.list_edits(book),
        lambda r, book: r.delete_codebook(book),
    ],
    ids=["list_revisions", "entries", "delta", "diff", "rollback", "submit", "list_edits", "delete"],
)
def test_a_deleted_codebook_is_unknown(
    registry: Registry, book: CodebookName, call: Callable[[Registry, CodebookName], object]
) -> None:
    registry.delete_codebook(book)
    with pytest.raises(NotFound) as caught:
        call(registry, book)
    assert caught.value.code == "unknown_codebook"


def test_a_deleted_codebook_can_be_looked_at_and_is_listed_on_demand(
    registry: Registry, create: Create, advance: Callable[[float], None], now: Callable[[], datetime]
) -> None:
    kept, gone = create("kept"), create("gone")
    before = registry.get_codebook(gone)
    advance(5)
    deleted = registry.delete_codebook(gone)
    assert deleted == replace(before, deleted_at=now())
    assert registry.get_codebook(gone) == deleted
    assert [it.name for it in registry.list_codebooks()] == [kept]
    assert [it.name for it in registry.list_codebooks(TenantId("acme"), deleted=True)] == [gone, kept]


def test_its_name_stays_taken(registry: Registry, create: Create, book: CodebookName) -> None:
    registry.delete_codebook(book)
    with pytest.raises(AlreadyExists) as caught:
        create(book.codebook)
    assert caught.value.code == "codebook_exists"


def test_it_comes_back_as_it_was(registry: Registry, book: CodebookName, publish: Publish) -> None:
    publish(book)
    edit = publish(book, threshold=0.5)
    before, entries, edits = registry.get_codebook(book), registry.entries(book), registry.list_edits(book)
    registry.delete_codebook(book)
    assert registry.undelete_codebook(book) == before
    assert (registry.get_codebook(book), registry.entries(book)) == (before, entries)
    assert registry.list_edits(book) == edits
    assert registry.delta(book, 2).added[0].edit_id == edit.edit_id
    with pytest.raises(AlreadyExists) as caught:
        registry.undelete_codebook(book)
    assert caught.value.code == "codebook_not_deleted"


def test_what_was_never_there_cannot_come_back(registry: Registry, book: CodebookName) -> None:
    with pytest.raises(NotFound) as caught:
        registry.undelete_codebook(replace(book, codebook="ghost"))
    assert caught.value.code == "unknown_codebook"


def test_its_unfinished_edits_wait_until_it_is_back(registry: Registry, create: Create, book: CodebookName) -> None:
    other = create("other")
    waiting = registry.submit(book, SPEC)
    behind = registry.submit(other, SPEC)
    registry.delete_codebook(book)
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    assert claim.edit.edit_id == behind.edit_id
    assert registry.claim("worker", lease_s=30, fingerprint="fp") == ()
    registry.undelete_codebook(book)
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    assert (claim.edit.edit_id, claim.edit.state, claim.attempt) == (waiting.edit_id, EditState.TRAINING, 1)


def test_what_a_worker_made_meanwhile_is_not_published(
    registry: Registry, book: CodebookName, advance: Callable[[float], None]
) -> None:
    registry.submit(book, SPEC)
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    registry.delete_codebook(book)
    publication = Publication(artifact="a" * 64, base_revision=1)
    with pytest.raises((NotFound, FailedPrecondition)):
        registry.publish([(claim, publication)])
    registry.undelete_codebook(book)
    assert registry.get_codebook(book).revision == 1
    (edit,) = registry.publish([(claim, publication)])
    assert edit.active


def test_a_stale_etag_changes_nothing(registry: Registry, book: CodebookName, publish: Publish) -> None:
    seen = codebook_etag(registry.get_codebook(book))
    publish(book)
    for call in (registry.delete_codebook, lambda name, **etag: registry.rollback(name, 1, **etag)):
        with pytest.raises(Aborted) as caught:
            call(book, etag=seen)
        assert caught.value.code == "etag_mismatch"
    current = registry.get_codebook(book)
    assert (current.revision, current.deleted_at) == (2, None)
    deleted = registry.delete_codebook(book, etag=codebook_etag(current))
    assert codebook_etag(deleted) != codebook_etag(current)
    with pytest.raises(Aborted):
        registry.undelete_codebook(book, etag=codebook_etag(current))
    assert registry.undelete_codebook(book, etag=codebook_etag(deleted)) == current
