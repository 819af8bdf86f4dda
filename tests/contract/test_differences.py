"""Differences of two revisions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horen_vllm.errors import NotFound
from horen_vllm.ids import CodebookName, new_edit_id
from horen_vllm.registry.differences import ChangeKind, ChangeRecord
from horen_vllm.registry.models import EditRecord, EditSpec
from horen_vllm.registry.portable import ImportedEdit
from horen_vllm.registry.ports import Registry

from .test_revision_history import STEPS, Publishing, Rollback, play

Create = Callable[..., CodebookName]
Publish = Callable[..., EditRecord]


def test_a_difference_names_the_edits_and_both_thresholds(
    registry: Registry, book: CodebookName, publish: Publish
) -> None:
    first = publish(book, threshold=0.5)
    second = publish(book, supersedes=(first.edit_id,), threshold=0.25)
    diff = registry.diff(book, from_revision=2)
    assert (diff.from_revision, diff.to_revision) == (2, 3)
    assert (diff.from_threshold, diff.to_threshold) == (0.5, 0.25)
    removed, added = diff.changes
    assert removed == ChangeRecord(
        kind=ChangeKind.REMOVED,
        edit_id=first.edit_id,
        sequence=first.sequence,
        prompt=first.spec.prompt,
        target=first.spec.target,
    )
    assert (added.kind, added.edit_id, added.prompt) == (ChangeKind.ADDED, second.edit_id, second.spec.prompt)
    back = registry.diff(book, from_revision=3, to_revision=2)
    assert [(it.kind, it.edit_id) for it in back.changes] == [
        (ChangeKind.ADDED, first.edit_id),
        (ChangeKind.REMOVED, second.edit_id),
    ]
    assert (back.from_threshold, back.to_threshold) == (0.25, 0.5)


def test_a_difference_from_nothing_is_everything(registry: Registry, book: CodebookName, publish: Publish) -> None:
    edits = [publish(book) for _ in range(3)]
    everything = registry.diff(book, from_revision=0, to_revision=3)
    assert [it.edit_id for it in everything.changes] == [edit.edit_id for edit in edits[:2]]
    assert (everything.from_threshold, everything.to_threshold) == (None, 0.85)
    assert registry.diff(book, from_revision=3, to_revision=3).changes == ()


def test_a_difference_comes_in_pages(registry: Registry, book: CodebookName, publish: Publish) -> None:
    old = [publish(book).edit_id for _ in range(3)]
    registry.rollback(book, 1)
    new = [publish(book).edit_id for _ in range(2)]
    found, after = [], 0
    while page := registry.diff(book, from_revision=4, after_sequence=after, limit=2).changes:
        assert len(page) <= 2
        found += [(it.kind, it.edit_id) for it in page]
        after = page[-1].sequence
    assert found == [(ChangeKind.REMOVED, it) for it in old] + [(ChangeKind.ADDED, it) for it in new]


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2), (0, 3), (1, 0), (1, -1)])
def test_unknown_revisions_are_refused(
    registry: Registry, book: CodebookName, publish: Publish, start: int, end: int
) -> None:
    publish(book)
    with pytest.raises(NotFound) as caught:
        registry.diff(book, from_revision=start, to_revision=end)
    assert caught.value.code == "unknown_revision"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, ends=st.tuples(st.integers(0, 30), st.integers(0, 30)), limit=st.integers(1, 4))
def test_a_difference_leads_from_one_revision_to_the_other(
    registry: Registry,
    create: Create,
    publish: Publish,
    steps: list[Publishing | Rollback],
    ends: tuple[int, int],
    limit: int,
) -> None:
    unique = str(uuid4())
    book = create(f"book-{unique}", fingerprint=unique)
    history, edits = play(registry, publish, book, steps)
    start, end = ends[0] % len(history), 1 + ends[1] % (len(history) - 1)
    changes: list[Any] = []
    after = 0
    while page := registry.diff(book, from_revision=start, to_revision=end, after_sequence=after, limit=limit).changes:
        changes += page
        after = page[-1].sequence
    assert [it.sequence for it in changes] == sorted(it.sequence for it in changes)
    entries = set(history[start][0])
    for change in changes:
        if change.kind is ChangeKind.ADDED:
            assert change.edit_id not in entries
            entries.add(change.edit_id)
        else:
            entries.remove(change.edit_id)
    assert entries == history[end][0]
    assert {it.edit_id for it in changes} <= set(edits)


def test_a_large_difference_comes_in_pages(registry: Registry, book: CodebookName, publish: Publish) -> None:
    publish(book)
    (model,) = registry.portable_edits(book, 2)
    count = 5_200
    many = [replace(model, origin=new_edit_id(), sequence=number, spec=spec_of(number)) for number in range(count)]
    imported = [ImportedEdit(edit=edit, edit_id=new_edit_id(), artifact="a" * 64) for edit in many]
    registry.import_edits(book, imported, threshold=0.5, entries=count)
    for start, end, kind in ((2, 3, ChangeKind.ADDED), (3, 2, ChangeKind.REMOVED)):
        found, after = [], 0
        while page := registry.diff(book, from_revision=start, to_revision=end, after_sequence=after).changes:
            assert {it.kind for it in page} == {kind}
            found += [it.edit_id for it in page]
            after = page[-1].sequence
        assert found == [item.edit_id for item in imported]


def spec_of(number: int) -> EditSpec:
    return EditSpec(prompt=f"question {number}", target="t")
