"""What an export says of a codebook, and what an import makes of it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from horen_vllm.errors import AlreadyExists, FailedPrecondition, NotFound
from horen_vllm.ids import CodebookName, EditId, TenantId, new_edit_id
from horen_vllm.registry.models import (
    EditRecord,
    EditSpec,
    EditState,
    EntryRef,
    Publication,
    RequestKey,
    RevisionKind,
)
from horen_vllm.registry.portable import ImportCounts, ImportedEdit, PortableState
from horen_vllm.registry.ports import Registry

from .conftest import PARAMETERS
from .transfers import Book, active_origins, bring_in, export, on_their_way

Create = Callable[..., CodebookName]
Publish = Callable[..., EditRecord]
KEY = RequestKey(tenant=TenantId("acme"), method="ImportCodebook", request_id="r1", digest="d")


@pytest.fixture
def other(create: Create) -> CodebookName:
    return create("copy", tenant="globex")


@pytest.fixture
def following(registry: Registry) -> Callable[[str], CodebookName]:
    """Makes a codebook whose threshold follows its entries."""

    def create_one(codebook: str) -> CodebookName:
        name = CodebookName(TenantId("acme"), codebook)
        parameters = replace(PARAMETERS, false_fire_rate=0.01, background="b" * 64)
        registry.create_codebook(name, model="llama", fingerprint="fp", site="layers.29", parameters=parameters)
        return name

    return create_one


def shape(registry: Registry, name: CodebookName) -> list[tuple[EditSpec, str | None]]:
    return [(registry.get_edit(entry.edit_id).spec, entry.artifact) for entry in registry.entries(name)]


def test_an_export_has_entries_tombstones_and_the_rest(
    registry: Registry, book: CodebookName, publish: Publish, now: Callable[[], datetime]
) -> None:
    first, second, third = publish(book), publish(book), publish(book)
    fourth = publish(book, supersedes=(first.edit_id,))
    registry.submit(book, EditSpec(prompt="unfinished", target="t"))
    registry.retire_edit(second.edit_id)
    file = export(registry, book, page=2)
    assert [edit.origin for edit in file.edits] == [it.edit_id for it in (first, second, third, fourth)]
    assert [edit.state.value for edit in file.edits] == ["inactive", "retired", "active", "active"]
    assert [edit.retired_at for edit in file.edits] == [None, now(), None, None]
    assert file.edits[3].supersedes == (first.edit_id,)
    assert file.edits[2].artifact == third.artifact
    # Retired since: a tombstone, whatever the revision; the revision's own entries otherwise.
    old = export(registry, book, 4)
    assert [edit.state.value for edit in old.edits] == ["active", "retired", "active", "inactive"]
    assert (old.entries, file.entries) == (3, 2)


def test_an_unfinished_edit_that_was_retired_is_a_tombstone(registry: Registry, book: CodebookName) -> None:
    edit = registry.submit(book, EditSpec(prompt="p", target="t"))
    registry.retire_edit(edit.edit_id)
    (found,) = export(registry, book).edits
    assert (found.origin, found.state, found.artifact) == (edit.edit_id, PortableState.RETIRED, None)


@pytest.mark.parametrize("revision", [0, 9])
def test_what_is_not_there_is_not_exported(registry: Registry, book: CodebookName, revision: int) -> None:
    for call in (registry.get_revision, registry.portable_edits):
        with pytest.raises(NotFound) as caught:
            call(book, revision)
        assert caught.value.code == "unknown_revision"


def test_an_empty_codebook_becomes_the_exported_one(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish
) -> None:
    first = publish(book, threshold=0.5)
    publish(book)
    third = publish(book, supersedes=(first.edit_id,), threshold=1 / 3)
    made = bring_in(registry, other, export(registry, book))
    assert made.counts == ImportCounts(added=2)
    assert made.codebook == registry.get_codebook(other)
    assert (made.codebook.revision, made.codebook.entry_count) == (2, 2)
    assert made.codebook.parameters.threshold == 1 / 3
    assert shape(registry, other) == shape(registry, book)
    assert active_origins(registry, other) == active_origins(registry, book)
    (last,) = registry.list_revisions(other, after=1)
    assert (last.kind, last.edit_id, last.entry_count, last.threshold) == (RevisionKind.IMPORT, None, 2, 1 / 3)
    edits = registry.list_edits(other)
    assert {edit.edit_id for edit in edits}.isdisjoint(edit.edit_id for edit in registry.list_edits(book))
    assert [edit.state for edit in edits] == [EditState.PUBLISHED] * 2
    assert [edit.published_revision for edit in edits] == [2, 2]
    assert registry.claim("worker", lease_s=30, fingerprint="fp") == ()
    # The superseded edit did not come along.
    assert edits[1].supersedes == ()
    assert third.supersedes == (first.edit_id,)


def test_what_is_known_is_left_as_it_is(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish
) -> None:
    publish(book)
    file = export(registry, book)
    bring_in(registry, other, file)
    before = registry.list_edits(other), registry.entries(other)
    again = bring_in(registry, other, file)
    assert again.counts == ImportCounts(already_there=1)
    assert (registry.list_edits(other), registry.entries(other)) == before
    assert again.codebook.revision == 3


def test_what_was_retired_here_stays_retired(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish
) -> None:
    publish(book)
    file = export(registry, book)
    bring_in(registry, other, file)
    (copy,) = registry.list_edits(other)
    registry.retire_edit(copy.edit_id)
    assert bring_in(registry, other, file).counts == ImportCounts(kept_retired=1)
    assert list(registry.entries(other)) == []


def test_what_was_retired_there_is_retired_here(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish
) -> None:
    kept, gone = publish(book), publish(book)
    bring_in(registry, other, export(registry, book))
    registry.retire_edit(gone.edit_id)
    made = bring_in(registry, other, export(registry, book))
    assert made.counts == ImportCounts(already_there=1, retired=1)
    assert active_origins(registry, other) == [kept.edit_id]
    assert registry.get_codebook(other).entry_count == 1
    assert registry.list_edits(other)[1].retired_at is not None
    # All in one revision, that a rollback takes back.
    assert registry.list_revisions(other)[-1].kind is RevisionKind.IMPORT
    registry.rollback(other, 2)
    assert active_origins(registry, other) == [kept.edit_id, gone.edit_id]


def test_no_chain_of_files_brings_a_retired_edit_back(
    registry: Registry, create: Create, book: CodebookName, publish: Publish
) -> None:
    edit = publish(book)
    old = export(registry, book)
    registry.retire_edit(edit.edit_id)
    second, third = create("second"), create("third")
    bring_in(registry, second, export(registry, book))
    bring_in(registry, third, export(registry, second))
    for name in (book, second, third):
        assert bring_in(registry, name, old).counts == ImportCounts(kept_retired=1)
        assert list(registry.entries(name)) == []


def test_what_was_rolled_back_comes_back(registry: Registry, book: CodebookName, publish: Publish) -> None:
    edit = publish(book)
    file = export(registry, book)
    registry.rollback(book, 1)
    assert bring_in(registry, book, file).counts == ImportCounts(added=1)
    assert list(registry.entries(book)) == [
        EntryRef(edit_id=edit.edit_id, sequence=edit.sequence, artifact=edit.artifact or "")
    ]
    assert registry.get_edit(edit.edit_id).active


def test_a_file_with_another_entry_changes_no_revision(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    edit = publish(book)
    registry.rollback(book, 1)
    file, before = export(registry, book, 2), registry.entries(book, 2)
    other = replace(file, edits=(replace(file.edits[0], artifact="f" * 64),))
    assert bring_in(registry, book, other).counts == ImportCounts(added=1)
    assert registry.entries(book, 2) == before
    # So what comes back is the entry that the codebook knows.
    assert registry.entries(book) == (EntryRef(edit_id=edit.edit_id, sequence=1, artifact=edit.artifact or ""),)


def test_who_inherits_a_prompt_is_no_second_entry_for_it(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish
) -> None:
    first = publish(book)
    same = registry.submit(book, first.spec)
    (claim,) = registry.claim("w", lease_s=30, fingerprint="fp")
    registry.finish_same(claim, first.edit_id)
    file = export(registry, book)
    bring_in(registry, other, replace(file, edits=file.edits[:1]))
    (known,) = registry.list_edits(other)
    registry.retire_edit(known.edit_id)
    again = publish(other)
    there = export(registry, other)
    edits = (there.edits[0], replace(there.edits[1], spec=first.spec))
    with pytest.raises(FailedPrecondition) as caught:
        bring_in(registry, book, replace(there, edits=edits))
    assert caught.value.code == "import_conflict"
    assert same.edit_id in caught.value.message
    assert again.edit_id


def test_an_edit_whose_time_has_passed_is_a_tombstone(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish, now: Callable[[], datetime]
) -> None:
    publish(book)
    file = export(registry, book)
    past = now() - timedelta(seconds=1)
    late = replace(file, edits=(replace(file.edits[0], expires_at=past),))
    assert bring_in(registry, other, late).counts == ImportCounts()
    (copy,) = registry.list_edits(other)
    assert (copy.active, copy.retired_at) == (False, past)
    assert bring_in(registry, other, file).counts == ImportCounts(kept_retired=1)


def test_a_prompt_has_one_entry(registry: Registry, book: CodebookName, other: CodebookName, publish: Publish) -> None:
    theirs, mine = publish(book), publish(other)
    file = export(registry, book)
    same = EditSpec(prompt=f"  {mine.spec.prompt.upper()} ", target="other")
    clash = replace(file, edits=(replace(file.edits[0], spec=same),))
    before = registry.get_codebook(other), registry.list_edits(other)
    with pytest.raises(FailedPrecondition, match=mine.edit_id) as caught:
        bring_in(registry, other, clash)
    assert caught.value.code == "import_conflict"
    assert (registry.get_codebook(other), registry.list_edits(other)) == before
    registry.retire_edit(mine.edit_id)
    assert bring_in(registry, other, clash).counts == ImportCounts(added=1)
    assert active_origins(registry, other) == [theirs.edit_id]


def test_a_file_with_two_entries_for_a_prompt_is_refused(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish
) -> None:
    publish(book), publish(book)
    file = export(registry, book)
    twice = replace(file, edits=(file.edits[0], replace(file.edits[1], spec=file.edits[0].spec)))
    with pytest.raises(FailedPrecondition) as caught:
        bring_in(registry, other, twice)
    assert caught.value.code == "import_conflict"


def test_an_edit_that_is_being_made_is_not_overtaken(registry: Registry, book: CodebookName) -> None:
    edit = registry.submit(book, EditSpec(prompt="p", target="t"))
    registry.retire_edit(edit.edit_id)
    tombstone = export(registry, book).edits[0]
    waiting = registry.submit(book, EditSpec(prompt="q", target="t"))
    claims_it = replace(tombstone, origin=waiting.edit_id, state=PortableState.ACTIVE, artifact="a" * 64)
    with pytest.raises(FailedPrecondition) as caught:
        bring_in(registry, book, Book((claims_it,), 0.5, 1))
    assert caught.value.code == "import_conflict"
    retired = replace(tombstone, origin=waiting.edit_id)
    bring_in(registry, book, Book((retired,), 0.5, 0))
    closed = registry.get_edit(waiting.edit_id)
    assert (closed.state, closed.reason_code) == (EditState.FAILED, "retired")


def test_an_entry_that_left_since_it_was_looked_up_is_not_guessed(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    publish(book)
    file = export(registry, book)
    on_the_way = on_their_way(registry, book, file.edits)
    registry.rollback(book, 1)
    with pytest.raises(FailedPrecondition) as caught:
        registry.import_edits(book, on_the_way, threshold=0.5, entries=1)
    assert caught.value.code == "revision_moved"
    assert registry.get_codebook(book).revision == 3


def test_an_import_is_made_once(registry: Registry, book: CodebookName, other: CodebookName, publish: Publish) -> None:
    publish(book)
    file = export(registry, book)
    assert registry.made_import(other, KEY) is None
    made = bring_in(registry, other, file, request=KEY)
    assert bring_in(registry, other, file, request=KEY) == made
    assert registry.made_import(other, KEY) == made
    assert registry.get_codebook(other).revision == 2
    calls: tuple[Callable[[], object], ...] = (
        lambda: registry.made_import(other, replace(KEY, digest="e")),
        lambda: bring_in(registry, other, file, request=replace(KEY, digest="e")),
    )
    for call in calls:
        with pytest.raises(AlreadyExists) as caught:
            call()
        assert caught.value.code == "request_id_reused"


def test_a_dry_import_counts_and_changes_nothing(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish
) -> None:
    publish(book, threshold=0.5)
    before = registry.get_codebook(other), registry.list_edits(other), registry.list_audit_events()
    dry = bring_in(registry, other, export(registry, book), validate_only=True)
    assert (dry.counts, dry.codebook.parameters.threshold) == (ImportCounts(added=1), 0.5)
    assert (registry.get_codebook(other), registry.list_edits(other), registry.list_audit_events()) == before


def test_a_fixed_threshold_is_kept_where_there_are_entries(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish
) -> None:
    publish(book, threshold=0.9), publish(other, threshold=0.5)
    assert bring_in(registry, other, export(registry, book)).codebook.parameters.threshold == 0.5


def test_a_threshold_that_follows_the_entries_is_computed_anew(
    registry: Registry, following: Callable[[str], CodebookName], publish: Publish
) -> None:
    low, high, empty = following("low"), following("high"), following("empty")
    publish(low, threshold=0.5), publish(high, threshold=0.9)
    bring_in(registry, empty, export(registry, low))
    assert list(registry.thresholds_due("fp")) == []
    assert bring_in(registry, low, export(registry, high)).codebook.parameters.threshold == 0.9
    assert list(registry.thresholds_due("fp")) == [low]
    assert bring_in(registry, high, export(registry, empty)).codebook.parameters.threshold == 0.9
    assert list(registry.thresholds_due("fp")) == [low, high]


def test_a_file_that_lost_entries_to_retirement_has_no_exact_threshold(
    registry: Registry, following: Callable[[str], CodebookName], publish: Publish
) -> None:
    source, target = following("source"), following("target")
    publish(source), publish(source, threshold=0.25)
    registry.retire_edit(registry.list_edits(source)[0].edit_id)
    made = bring_in(registry, target, export(registry, source, 3))
    assert (made.counts.added, made.codebook.parameters.threshold) == (1, 0.85)
    assert list(registry.thresholds_due("fp")) == [source, target]


def test_who_said_the_same_keeps_the_entry_of_a_tombstone(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish
) -> None:
    first = publish(book)
    second = registry.submit(book, EditSpec(prompt=first.spec.prompt, target=first.spec.target))
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    registry.finish_same(claim, first.edit_id)
    bring_in(registry, other, export(registry, book))
    registry.retire_edit(first.edit_id)
    file = export(registry, book)
    assert file.of(PortableState.ACTIVE) == [second.edit_id]
    made = bring_in(registry, other, file)
    assert made.counts == ImportCounts(added=1, retired=1)
    assert active_origins(registry, other) == [second.edit_id]
    # Where the edit that said the same is known, the tombstone itself hands its entry on.
    back = registry.rollback(book, 2)
    made = bring_in(registry, book, file)
    assert made.counts == ImportCounts(already_there=1, retired=1)
    assert (made.codebook.revision, made.codebook.entry_count) == (back.number + 1, 1)
    assert active_origins(registry, book) == [second.edit_id]


def test_aliases_are_named_by_their_ids_here(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish
) -> None:
    first = publish(book)
    registry.submit(book, EditSpec(prompt="another way", target="t"))
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    registry.publish([(claim, Publication(artifact="a" * 64, base_revision=2, alias_of=first.edit_id))])
    bring_in(registry, other, export(registry, book))
    original, alias = registry.list_edits(other)
    assert alias.alias_of == original.edit_id


def test_a_deleted_codebook_takes_nothing_in(registry: Registry, book: CodebookName) -> None:
    registry.delete_codebook(book)
    calls: list[Callable[[], object]] = [
        lambda: registry.import_edits(book, (), threshold=0.5, entries=0),
        lambda: registry.known_origins(book, [EditId("e")]),
        lambda: registry.portable_edits(book, 1),
        lambda: registry.get_revision(book),
    ]
    for call in calls:
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.code == "unknown_codebook"


def test_more_edits_than_one_batch_come_in_order(
    registry: Registry, book: CodebookName, other: CodebookName, publish: Publish
) -> None:
    publish(book)
    (model,) = export(registry, book).edits
    many = [
        replace(model, origin=new_edit_id(), sequence=number, spec=EditSpec(prompt=f"p{number}", target="t"))
        for number in range(1, 1203)
    ]
    imported = [ImportedEdit(edit=edit, edit_id=new_edit_id(), artifact="a" * 64) for edit in many]
    made = registry.import_edits(other, imported, threshold=0.5, entries=len(many))
    assert (made.counts.added, made.codebook.entry_count, made.codebook.revision) == (1202, 1202, 2)
    assert [entry.edit_id for entry in registry.entries(other)] == [item.edit_id for item in imported]
