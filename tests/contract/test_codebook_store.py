"""Contract of `ports.CodebookStore`."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.errors import AlreadyExists, NotFound
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.models import CodebookRecord, EditRecord, EditSpec, EntryRef, RevisionKind
from horen_vllm.registry.ports import Registry

from .conftest import PARAMETERS

Create = Callable[..., CodebookName]
Publish = Callable[..., EditRecord]

NOBODY = CodebookName(TenantId("acme"), "nothing")


def entry_ids(registry: Registry, book: CodebookName, revision: int | None = None) -> list[EditId]:
    return [entry.edit_id for entry in registry.entries(book, revision)]


def test_a_new_codebook_is_empty_at_revision_1(registry: Registry, now: Callable[[], datetime]) -> None:
    name = CodebookName(TenantId("acme"), "facts")
    parameters = MethodParameters(preset="p", threshold=0.1 + 0.2, value_mode=ValueMode.LAST, stop_loss=None)
    created = registry.create_codebook(name, model="m", fingerprint="f", site="s", parameters=parameters)
    expected = CodebookRecord(
        name=name,
        model="m",
        fingerprint="f",
        site="s",
        parameters=parameters,
        revision=1,
        entry_count=0,
        created_at=now(),
    )
    assert created == expected
    assert registry.get_codebook(name) == expected
    assert registry.get_codebook(name).created_at.tzinfo is UTC
    assert list(registry.entries(name)) == []
    (first,) = registry.list_revisions(name)
    assert (first.number, first.kind, first.threshold) == (1, RevisionKind.CREATE, 0.1 + 0.2)


def test_a_name_is_taken_once_for_each_tenant(registry: Registry, create: Create) -> None:
    name = create("facts", tenant="acme")
    with pytest.raises(AlreadyExists) as caught:
        create("facts", tenant="acme", fingerprint="other")
    assert caught.value.code == "codebook_exists"
    assert registry.get_codebook(name).fingerprint == "fp"
    assert create("facts", tenant="globex") != name


def test_codebooks_are_listed_by_name_and_by_tenant(registry: Registry, create: Create) -> None:
    second, first, other = create("b"), create("a"), create("a", tenant="globex")
    assert [record.name for record in registry.list_codebooks()] == [first, second, other]
    assert [record.name for record in registry.list_codebooks(TenantId("acme"))] == [first, second]
    assert list(registry.list_codebooks(TenantId("nobody"))) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda r: r.get_codebook(NOBODY),
        lambda r: r.list_revisions(NOBODY),
        lambda r: r.entries(NOBODY),
        lambda r: r.delta(NOBODY, 0),
        lambda r: r.rollback(NOBODY, 1),
        lambda r: r.submit(NOBODY, EditSpec(prompt="p", target="t")),
        lambda r: r.list_edits(NOBODY),
    ],
    ids=["get", "list_revisions", "entries", "delta", "rollback", "submit", "list_edits"],
)
def test_an_unknown_codebook_is_named(registry: Registry, create: Create, call: Callable[[Registry], object]) -> None:
    create("nothing", tenant="globex")
    with pytest.raises(NotFound, match="tenants/acme/codebooks/nothing") as caught:
        call(registry)
    assert caught.value.code == "unknown_codebook"


@pytest.mark.parametrize("number", [-1, 0, 3])
@pytest.mark.parametrize("method", ["entries", "delta", "rollback"])
def test_an_unknown_revision_is_refused_with_the_newest_one(
    registry: Registry, book: CodebookName, publish: Publish, method: str, number: int
) -> None:
    publish(book)
    if method == "delta" and number == 0:
        number = 4
    with pytest.raises(NotFound, match=f"{book} has no revision {number}: its newest is 2") as caught:
        getattr(registry, method)(book, number)
    assert caught.value.code == "unknown_revision"
    assert registry.get_codebook(book).revision == 2


def test_entries_are_those_of_the_revision_asked_for(registry: Registry, book: CodebookName, publish: Publish) -> None:
    first = publish(book)
    second = publish(book, supersedes=(first.edit_id,))
    third = publish(book)
    assert first.artifact is not None
    assert registry.entries(book, 2)[0] == EntryRef(
        edit_id=first.edit_id, sequence=first.sequence, artifact=first.artifact
    )
    assert entry_ids(registry, book, 1) == []
    assert entry_ids(registry, book, 2) == [first.edit_id]
    assert entry_ids(registry, book, 3) == [second.edit_id]
    assert entry_ids(registry, book) == entry_ids(registry, book, 4) == [second.edit_id, third.edit_id]


def test_rollback_brings_exactly_the_old_entries_back(
    registry: Registry, book: CodebookName, publish: Publish, now: Callable[[], datetime]
) -> None:
    first = publish(book)
    second = publish(book, supersedes=(first.edit_id,))
    back = registry.rollback(book, 2)
    assert (back.number, back.kind, back.restored, back.edit_id) == (4, RevisionKind.ROLLBACK, 2, None)
    assert (back.codebook, back.entry_count, back.created_at) == (book, 1, now())
    assert registry.list_revisions(book)[-1] == back
    assert entry_ids(registry, book) == [first.edit_id]
    assert registry.get_edit(first.edit_id).active
    assert not registry.get_edit(second.edit_id).active
    assert registry.get_edit(second.edit_id).published_revision == 3


def test_a_rollback_can_be_rolled_back(registry: Registry, book: CodebookName, publish: Publish) -> None:
    edits = [publish(book).edit_id for _ in range(3)]
    registry.rollback(book, 2)
    registry.rollback(book, 4)
    registry.rollback(book, 1)
    registry.rollback(book, 6)
    assert [len(registry.entries(book, number)) for number in range(1, 9)] == [0, 1, 2, 3, 1, 3, 0, 3]
    assert entry_ids(registry, book) == edits
    assert registry.get_codebook(book).entry_count == 3


def test_rollback_to_the_current_revision_makes_a_new_one(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    edit = publish(book)
    assert registry.rollback(book, 2).number == 3
    assert entry_ids(registry, book) == [edit.edit_id]
    assert registry.delta(book, 2).added == ()


def test_a_publication_sets_the_threshold_of_its_revision_and_the_later_ones(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    publish(book)
    publish(book, threshold=0.1 + 0.2)
    publish(book)
    assert [revision.threshold for revision in registry.list_revisions(book)] == [0.85, 0.85, 0.1 + 0.2, 0.1 + 0.2]
    assert registry.get_codebook(book).parameters == replace(PARAMETERS, threshold=0.1 + 0.2)
    assert registry.list_codebooks() == [registry.get_codebook(book)]


def test_rollback_brings_the_old_threshold_back(registry: Registry, book: CodebookName, publish: Publish) -> None:
    edit = publish(book, threshold=1 / 3)
    publish(book, supersedes=(edit.edit_id,), threshold=2 / 3)
    assert registry.rollback(book, 2).threshold == 1 / 3
    assert registry.get_codebook(book).parameters.threshold == 1 / 3
    assert registry.rollback(book, 3).threshold == 2 / 3
    assert registry.rollback(book, 1).threshold == PARAMETERS.threshold
    assert [it.threshold for it in registry.list_revisions(book)] == [0.85, 1 / 3, 2 / 3, 1 / 3, 2 / 3, 0.85]


def test_a_delta_brings_the_threshold_also_without_entries(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    first = publish(book, threshold=0.5)
    publish(book, supersedes=(first.edit_id,), threshold=0.25)
    registry.rollback(book, 2)
    delta = registry.delta(book, 2)
    assert (delta.added, delta.removed, delta.codebook.parameters.threshold) == ((), (), 0.5)
    assert registry.delta(book, 3).codebook.parameters.threshold == 0.5


def test_delta_tells_what_changed(registry: Registry, book: CodebookName, publish: Publish) -> None:
    first = publish(book)
    second = publish(book)
    third = publish(book, supersedes=(first.edit_id,))
    delta = registry.delta(book, 2)
    assert (delta.base, delta.revision) == (2, 4)
    assert [entry.edit_id for entry in delta.added] == [second.edit_id, third.edit_id]
    assert delta.removed == (first.edit_id,)
    assert delta.codebook == registry.get_codebook(book)
    everything = registry.delta(book, 0)
    assert everything.added == tuple(registry.entries(book))
    assert everything.removed == ()
    unchanged = registry.delta(book, 4)
    assert (unchanged.added, unchanged.removed) == ((), ())


def test_delta_leaves_out_what_went_and_came_back(registry: Registry, book: CodebookName, publish: Publish) -> None:
    publish(book)
    publish(book)
    registry.rollback(book, 1)
    registry.rollback(book, 3)
    delta = registry.delta(book, 3)
    assert (delta.added, delta.removed) == ((), ())
    assert len(registry.delta(book, 4).added) == 2


def test_entries_stand_by_sequence_whatever_the_order_they_came_in(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    first, second = publish(book), publish(book)
    publish(book, supersedes=(first.edit_id,))
    registry.rollback(book, 3)
    assert entry_ids(registry, book) == [first.edit_id, second.edit_id]
    assert [entry.edit_id for entry in registry.delta(book, 0).added] == [first.edit_id, second.edit_id]


def test_codebooks_do_not_see_each_other(registry: Registry, create: Create, publish: Publish) -> None:
    ours, theirs = create("facts", tenant="acme"), create("facts", tenant="globex")
    publish(ours)
    edit = publish(theirs)
    registry.rollback(ours, 1)
    assert entry_ids(registry, theirs) == [edit.edit_id]
    assert [entry.edit_id for entry in registry.delta(theirs, 1).added] == [edit.edit_id]
    assert list(registry.entries(ours)) == []
    assert len(registry.list_edits(theirs)) == 1


def test_revisions_are_listed_in_pages(registry: Registry, book: CodebookName, publish: Publish) -> None:
    edits = [publish(book).edit_id for _ in range(3)]
    page = registry.list_revisions(book, after=1, limit=2)
    assert [(r.number, r.kind, r.edit_id, r.entry_count) for r in page] == [
        (2, RevisionKind.PUBLISH, edits[0], 1),
        (3, RevisionKind.PUBLISH, edits[1], 2),
    ]
    assert [r.number for r in registry.list_revisions(book, after=3)] == [4]
