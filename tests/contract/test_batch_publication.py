"""Contract of `ports.EditQueue.publish`: a batch of edits, a revision each, all or none."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest

from horen_vllm.errors import FailedPrecondition, InvalidArgument, NotFound
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import Claim, EditRecord, EditSpec, EditState, Publication, RevisionKind
from horen_vllm.registry.ports import Registry

Publish = Callable[..., EditRecord]
Batch = list[tuple[Claim, Publication]]


@pytest.fixture
def claims(registry: Registry, publish: Publish, book: CodebookName) -> tuple[Claim, ...]:
    """Three claims of a codebook that is at revision 2, with one entry."""
    publish(book)
    for number in range(3):
        registry.submit(book, EditSpec(prompt=f"p{number}", target="t"))
    return registry.claim("worker", lease_s=30, fingerprint="fp", limit=3)


@pytest.fixture
def batch(claims: tuple[Claim, ...]) -> Batch:
    return chained(claims)


def chained(claims: tuple[Claim, ...], base: int = 2) -> Batch:
    return [
        (claim, Publication(artifact=f"{number:064x}", base_revision=base + number))
        for number, claim in enumerate(claims)
    ]


def changed(batch: Batch, at: int, **fields: object) -> Batch:
    """The batch with other fields in the publication at index `at`."""
    claim, publication = batch[at]
    return [*batch[:at], (claim, replace(publication, **fields)), *batch[at + 1 :]]  # type: ignore[arg-type]


def refused(registry: Registry, book: CodebookName, batch: Batch) -> str:
    """Publish what must be refused; return the code after checking that nothing was written."""
    before = registry.list_edits(book), registry.get_codebook(book), registry.entries(book)
    with pytest.raises((FailedPrecondition, InvalidArgument, NotFound)) as caught:
        registry.publish(batch)
    assert (registry.list_edits(book), registry.get_codebook(book), registry.entries(book)) == before
    assert len(registry.list_revisions(book)) == before[1].revision
    return caught.value.code


def test_each_edit_of_a_batch_makes_a_revision(
    registry: Registry, book: CodebookName, batch: Batch, now: Callable[[], datetime], advance: Callable[[float], None]
) -> None:
    advance(5)
    edits = registry.publish(batch)
    assert [edit.edit_id for edit in edits] == [claim.edit.edit_id for claim, _ in batch]
    assert [edit.published_revision for edit in edits] == [3, 4, 5]
    assert [edit.artifact for edit in edits] == [publication.artifact for _, publication in batch]
    for edit in edits:
        assert (edit.state, edit.active, edit.published_at) == (EditState.PUBLISHED, True, now())
        assert registry.get_edit(edit.edit_id) == edit
    revisions = registry.list_revisions(book, after=2)
    assert [(it.number, it.kind, it.edit_id) for it in revisions] == [
        (number, RevisionKind.PUBLISH, edit.edit_id) for number, edit in enumerate(edits, start=3)
    ]
    assert [revision.entry_count for revision in revisions] == [2, 3, 4]
    assert (registry.get_codebook(book).revision, registry.get_codebook(book).entry_count) == (5, 4)
    assert [len(registry.entries(book, number)) for number in (2, 3, 4, 5)] == [1, 2, 3, 4]
    assert [entry.edit_id for entry in registry.delta(book, 3).added] == [edit.edit_id for edit in edits[1:]]
    assert registry.claim("worker", lease_s=30, fingerprint="fp") == ()


def test_the_order_of_a_batch_is_the_order_of_its_revisions(
    registry: Registry, book: CodebookName, claims: tuple[Claim, ...]
) -> None:
    edits = registry.publish(chained(claims[::-1]))
    assert [edit.edit_id for edit in edits] == [claim.edit.edit_id for claim in claims[::-1]]
    assert [edit.published_revision for edit in edits] == [3, 4, 5]


def test_a_publication_may_name_edits_before_it_in_the_batch(
    registry: Registry, book: CodebookName, batch: Batch
) -> None:
    old = registry.entries(book)[0].edit_id
    first, second, third = (claim.edit.edit_id for claim, _ in batch)
    batch = changed(batch, 1, supersedes=(old, first), overlaps=(first,))
    edits = registry.publish(changed(batch, 2, alias_of=second, overlaps=(old, first)))
    assert (edits[1].supersedes, edits[1].overlaps) == ((old, first), (first,))
    assert (edits[2].alias_of, edits[2].overlaps) == (second, (old, first))
    assert [edit.active for edit in edits] == [False, True, True]
    assert [registry.get_edit(edit.edit_id) for edit in edits] == list(edits)
    members = [[entry.edit_id for entry in registry.entries(book, number)] for number in (2, 3, 4, 5)]
    assert members == [[old], [old, first], [second], [second, third]]
    assert [it.entry_count for it in registry.list_revisions(book, after=1)] == [1, 2, 1, 2]
    assert registry.delta(book, 2).removed == (old,)
    registry.rollback(book, 3)
    assert [entry.edit_id for entry in registry.entries(book)] == [old, first]


def test_each_revision_of_a_batch_has_its_own_threshold(registry: Registry, book: CodebookName, batch: Batch) -> None:
    batch = changed(changed(batch, 0, threshold=0.1 + 0.2), 2, threshold=-1.0)
    registry.publish(batch)
    thresholds = [revision.threshold for revision in registry.list_revisions(book, after=1)]
    assert thresholds == [0.85, 0.1 + 0.2, 0.1 + 0.2, -1.0]
    assert registry.get_codebook(book).parameters.threshold == -1.0


@pytest.mark.parametrize("threshold", [1.5, float("nan")])
def test_a_threshold_that_is_no_cosine_keeps_the_whole_batch_back(
    registry: Registry, book: CodebookName, batch: Batch, threshold: float
) -> None:
    assert refused(registry, book, changed(batch, 2, threshold=threshold)) == "invalid_parameter"


def test_one_edit_is_superseded_once_in_a_batch(registry: Registry, book: CodebookName, batch: Batch) -> None:
    old = registry.entries(book)[0].edit_id
    edits = registry.publish(changed(changed(batch, 0, supersedes=(old,)), 2, supersedes=(old,)))
    assert [edit.supersedes for edit in edits] == [(old,), (), ()]
    assert registry.get_codebook(book).entry_count == 3


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_claim_keeps_the_whole_batch_back(
    registry: Registry, book: CodebookName, batch: Batch, lost: int
) -> None:
    registry.fail(batch[lost][0], "code", "reason")
    assert refused(registry, book, batch) == "claim_lost"


@pytest.mark.parametrize("wrong", [0, 1, 2])
@pytest.mark.parametrize("step", [-1, 1])
def test_a_break_in_the_chain_keeps_the_whole_batch_back(
    *, registry: Registry, book: CodebookName, batch: Batch, wrong: int, step: int
) -> None:
    base = batch[wrong][1].base_revision
    assert refused(registry, book, changed(batch, wrong, base_revision=base + step)) == "revision_moved"
    assert registry.publish(batch)[-1].published_revision == 5


@pytest.mark.parametrize("field", ["supersedes", "overlaps", "alias_of"])
def test_an_unknown_edit_keeps_the_whole_batch_back(
    registry: Registry, book: CodebookName, batch: Batch, field: str
) -> None:
    named = EditId("e000")
    value = named if field == "alias_of" else (named,)
    assert refused(registry, book, changed(batch, 2, **{field: value})) == "unknown_edit"


def test_a_rollback_between_claim_and_publication_moves_the_revision(
    registry: Registry, book: CodebookName, batch: Batch
) -> None:
    registry.rollback(book, 1)
    assert refused(registry, book, batch) == "revision_moved"
    edits = registry.publish(chained(tuple(claim for claim, _ in batch), base=3))
    assert [edit.published_revision for edit in edits] == [4, 5, 6]
    assert [entry.edit_id for entry in registry.entries(book)] == [edit.edit_id for edit in edits]


def test_a_published_edit_keeps_its_note(registry: Registry, book: CodebookName, batch: Batch) -> None:
    note = {"reason_code": "already_answered", "reason": "the model gave 't' before the edit, too."}
    edits = registry.publish(changed(batch, 1, **note))
    assert [(edit.reason_code, edit.reason) for edit in edits] == [
        (None, None),
        ("already_answered", "the model gave 't' before the edit, too."),
        (None, None),
    ]
    assert edits[1].state is EditState.PUBLISHED
    assert registry.get_edit(edits[1].edit_id) == edits[1]
