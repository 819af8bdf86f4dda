"""Contract of `ports.EditQueue`: submission, and what workers report."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from horen_vllm.errors import FailedPrecondition, NotFound
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import Claim, EditRecord, EditSpec, EditState, Publication, RevisionKind
from horen_vllm.registry.ports import Registry

Create = Callable[..., CodebookName]
Publish = Callable[..., EditRecord]

SPEC = EditSpec(
    prompt="Who leads Åcme? 🦎",
    target="Ann",
    subject="Åcme",
    aliases=("Ann A.",),
    paraphrases=("Åcme's leader?", "And the head of Åcme?"),
    must_not_fire=("Who leads Globex?",),
)


def claimed(registry: Registry, fingerprint: str = "fp") -> Claim:
    (claim,) = registry.claim("worker", lease_s=30, fingerprint=fingerprint)
    return claim


def test_a_submitted_edit_is_committed(registry: Registry, book: CodebookName, now: Callable[[], datetime]) -> None:
    edit = registry.submit(book, SPEC)
    assert (edit.codebook, edit.sequence, edit.spec) == (book, 1, SPEC)
    assert (edit.state, edit.attempt, edit.active) == (EditState.COMMITTED, 0, False)
    assert (edit.created_at, edit.updated_at, edit.published_at) == (now(), now(), None)
    assert (edit.artifact, edit.same_as, edit.alias_of, edit.published_revision) == (None, None, None, None)
    assert (edit.supersedes, edit.overlaps, edit.reason, edit.reason_code) == ((), (), None, None)
    assert registry.get_edit(edit.edit_id) == edit


def test_sequences_count_for_each_codebook(registry: Registry, create: Create) -> None:
    one, two = create("one"), create("two")
    assert [registry.submit(book, SPEC).sequence for book in (one, two, one)] == [1, 1, 2]


def test_an_unknown_edit_is_refused(registry: Registry) -> None:
    with pytest.raises(NotFound, match="e000") as caught:
        registry.get_edit(EditId("e000"))
    assert caught.value.code == "unknown_edit"


def test_edits_are_listed_in_pages(registry: Registry, book: CodebookName, publish: Publish) -> None:
    first = publish(book)
    rest = [registry.submit(book, SPEC) for _ in range(3)]
    assert list(registry.list_edits(book)) == [first, *rest]
    assert list(registry.list_edits(book, after_sequence=1, limit=2)) == rest[:2]


def test_a_published_edit_is_in_the_next_revision(
    registry: Registry, book: CodebookName, now: Callable[[], datetime], advance: Callable[[float], None]
) -> None:
    registry.submit(book, SPEC)
    claim = claimed(registry)
    advance(5)
    (edit,) = registry.publish([(claim, Publication(artifact="aa", base_revision=1))])
    assert (edit.state, edit.artifact, edit.published_revision) == (EditState.PUBLISHED, "aa", 2)
    assert (edit.active, edit.published_at, edit.updated_at) == (True, now(), now())
    assert registry.get_edit(edit.edit_id) == edit
    revision = registry.list_revisions(book)[-1]
    assert (revision.number, revision.kind, revision.edit_id) == (2, RevisionKind.PUBLISH, edit.edit_id)
    codebook = registry.get_codebook(book)
    assert (codebook.revision, codebook.entry_count, revision.entry_count) == (2, 1, 1)


def test_a_publication_records_its_neighbours(registry: Registry, book: CodebookName, publish: Publish) -> None:
    old, near, same = (publish(book).edit_id for _ in range(3))
    registry.submit(book, SPEC)
    publication = Publication(artifact="aa", base_revision=4, supersedes=(old,), alias_of=same, overlaps=(near,))
    (edit,) = registry.publish([(claimed(registry), publication)])
    assert (edit.supersedes, edit.alias_of, edit.overlaps) == ((old,), same, (near,))
    assert registry.get_edit(edit.edit_id) == edit
    assert [entry.edit_id for entry in registry.entries(book)] == [near, same, edit.edit_id]
    assert registry.get_codebook(book).entry_count == 3
    assert not registry.get_edit(old).active


def test_only_active_entries_are_superseded(registry: Registry, book: CodebookName, publish: Publish) -> None:
    gone = publish(book).edit_id
    kept = publish(book, supersedes=(gone,)).edit_id
    edit = publish(book, supersedes=(kept, gone))
    assert edit.supersedes == (kept,)
    assert registry.get_codebook(book).entry_count == 1
    assert [entry.edit_id for entry in registry.entries(book, 2)] == [gone]


def test_publishing_on_an_old_revision_is_refused(registry: Registry, book: CodebookName, publish: Publish) -> None:
    publish(book)
    registry.submit(book, SPEC)
    claim = claimed(registry)
    registry.rollback(book, 1)
    with pytest.raises(FailedPrecondition, match="from revision 2 to 3") as caught:
        registry.publish([(claim, Publication(artifact="aa", base_revision=2))])
    assert caught.value.code == "revision_moved"
    assert registry.get_edit(claim.edit.edit_id).state is EditState.TRAINING
    assert list(registry.entries(book)) == []
    (edit,) = registry.publish([(claim, Publication(artifact="aa", base_revision=3))])
    assert edit.published_revision == 4


@pytest.mark.parametrize("field", ["supersedes", "overlaps", "alias_of"])
def test_a_publication_cannot_name_another_codebooks_edit(
    registry: Registry, book: CodebookName, create: Create, publish: Publish, field: str
) -> None:
    theirs = publish(create("other", fingerprint="other"))
    registry.submit(book, SPEC)
    named: Any = theirs.edit_id if field == "alias_of" else (theirs.edit_id,)
    publication = replace(Publication(artifact="aa", base_revision=1), **{field: named})
    with pytest.raises(NotFound, match=theirs.edit_id) as caught:
        registry.publish([(claimed(registry), publication)])
    assert caught.value.code == "unknown_edit"
    assert registry.get_codebook(book).revision == 1
    assert registry.get_edit(theirs.edit_id).active


def test_an_edit_that_is_already_there_gets_no_entry(
    registry: Registry, book: CodebookName, publish: Publish, now: Callable[[], datetime]
) -> None:
    first = publish(book)
    publish(book)
    registry.submit(book, SPEC)
    edit = registry.finish_same(claimed(registry), first.edit_id)
    assert (edit.state, edit.same_as, edit.artifact) == (EditState.PUBLISHED, first.edit_id, None)
    assert (edit.active, edit.published_revision, edit.published_at) == (False, 3, now())
    assert registry.get_edit(edit.edit_id) == edit
    assert (registry.get_codebook(book).revision, registry.get_codebook(book).entry_count) == (3, 2)


def test_an_edit_is_not_already_there_once_the_other_has_gone(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    first = publish(book)
    registry.submit(book, SPEC)
    claim = claimed(registry)
    registry.rollback(book, 1)
    with pytest.raises(FailedPrecondition, match=first.edit_id) as caught:
        registry.finish_same(claim, first.edit_id)
    assert caught.value.code == "revision_moved"
    with pytest.raises(NotFound) as unknown:
        registry.finish_same(claim, EditId("e000"))
    assert unknown.value.code == "unknown_edit"
    assert registry.get_edit(claim.edit.edit_id).state is EditState.TRAINING


def test_a_failed_edit_keeps_its_reason(registry: Registry, book: CodebookName) -> None:
    registry.submit(book, SPEC)
    edit = registry.fail(claimed(registry), "not_learned", "The loss stayed at 3.1 after 60 steps.", base_revision=1)
    assert (edit.state, edit.reason_code) == (EditState.FAILED, "not_learned")
    assert edit.reason == "The loss stayed at 3.1 after 60 steps."
    assert (edit.active, edit.published_at, edit.published_revision) == (False, None, None)
    assert registry.get_edit(edit.edit_id) == edit
    assert registry.get_codebook(book).revision == 1


def test_a_reason_of_another_revision_is_refused(registry: Registry, book: CodebookName, publish: Publish) -> None:
    publish(book)
    registry.submit(book, SPEC)
    claim = claimed(registry)
    registry.rollback(book, 1)
    with pytest.raises(FailedPrecondition, match="from revision 2 to 3") as caught:
        registry.fail(claim, "key_not_matched", "An entry was in the way.", base_revision=2)
    assert caught.value.code == "revision_moved"
    assert registry.get_edit(claim.edit.edit_id).state is EditState.TRAINING
    assert registry.fail(claim, "key_not_matched", "It still is.").state is EditState.FAILED
