"""Contract of `ports.EditQueue`: leases, order and fencing."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from horen_vllm.errors import FailedPrecondition, NotFound
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import MAX_ATTEMPTS, Claim, EditRecord, EditSpec, EditState, Publication
from horen_vllm.registry.ports import Registry

Advance = Callable[[float], None]
Create = Callable[..., CodebookName]
Publish = Callable[..., EditRecord]
Write = Callable[[Registry, Claim], object]

SPEC = EditSpec(prompt="p", target="t")

WRITES: dict[str, Write] = {
    "trained": lambda r, claim: r.trained((claim,)),
    "publish": lambda r, claim: r.publish([(claim, Publication(artifact="late", base_revision=1))]),
    "finish_same": lambda r, claim: r.finish_same(claim, claim.edit.edit_id),
    "fail": lambda r, claim: r.fail(claim, "code", "reason"),
}


def claimed(registry: Registry, worker: str = "first", fingerprint: str = "fp") -> Claim:
    (claim,) = registry.claim(worker, lease_s=30, fingerprint=fingerprint)
    return claim


def nothing_to_claim(registry: Registry) -> bool:
    return registry.claim("second", lease_s=30, fingerprint="fp", limit=10) == ()


@pytest.fixture
def edit(registry: Registry, book: CodebookName) -> EditRecord:
    return registry.submit(book, SPEC)


def test_a_claim_is_a_lease_on_the_edit(
    registry: Registry, edit: EditRecord, now: Callable[[], datetime], advance: Advance
) -> None:
    advance(7)
    (claim,) = registry.claim("w", lease_s=12.5, fingerprint="fp")
    assert (claim.worker, claim.attempt, claim.lease_expires_at) == ("w", 1, now() + timedelta(seconds=12.5))
    assert claim.edit == replace(edit, state=EditState.TRAINING, attempt=1, updated_at=now())
    assert registry.get_edit(edit.edit_id) == claim.edit


def test_there_is_nothing_to_claim_in_an_empty_queue(registry: Registry, book: CodebookName) -> None:
    assert nothing_to_claim(registry)


@pytest.mark.usefixtures("edit")
def test_a_worker_gets_edits_of_its_base_model_only(registry: Registry) -> None:
    assert registry.claim("w", lease_s=30, fingerprint="other") == ()


def test_a_codebooks_edits_are_handed_out_in_order_one_at_a_time(registry: Registry, book: CodebookName) -> None:
    edits = [registry.submit(book, SPEC) for _ in range(3)]
    claim = claimed(registry)
    assert claim.edit.edit_id == edits[0].edit_id
    assert nothing_to_claim(registry)
    registry.publish([(claim, Publication(artifact="aa", base_revision=1))])
    claim = claimed(registry)
    assert claim.edit.edit_id == edits[1].edit_id
    registry.fail(claim, "code", "reason")
    claim = claimed(registry)
    assert claim.edit.edit_id == edits[2].edit_id
    registry.finish_same(claim, edits[0].edit_id)
    assert nothing_to_claim(registry)


def test_other_codebooks_do_not_wait(registry: Registry, create: Create, advance: Advance) -> None:
    busy, idle = create("busy"), create("idle")
    for book in (busy, busy, idle):
        registry.submit(book, SPEC)
        advance(1)
    assert claimed(registry).edit.codebook == busy
    assert claimed(registry).edit.codebook == idle
    assert nothing_to_claim(registry)


def test_the_oldest_edit_comes_first_whatever_its_codebook(
    registry: Registry, create: Create, advance: Advance
) -> None:
    first, second = create("first"), create("second")
    registry.submit(second, SPEC)
    advance(1)
    registry.submit(first, SPEC)
    assert claimed(registry).edit.codebook == second


def test_an_expired_lease_is_handed_out_again_before_later_edits(
    registry: Registry, book: CodebookName, edit: EditRecord, advance: Advance
) -> None:
    registry.submit(book, SPEC)
    claimed(registry)
    advance(29.9)
    assert nothing_to_claim(registry)
    advance(0.1)
    again = claimed(registry, "second")
    assert (again.edit.edit_id, again.worker, again.attempt) == (edit.edit_id, "second", 2)
    assert nothing_to_claim(registry)


@pytest.mark.usefixtures("edit")
def test_an_extended_lease_ends_later(registry: Registry, advance: Advance, now: Callable[[], datetime]) -> None:
    claim = claimed(registry)
    advance(20)
    (extended,) = registry.extend((claim,), lease_s=30)
    assert extended.lease_expires_at == now() + timedelta(seconds=30)
    assert (extended.attempt, extended.worker) == (claim.attempt, claim.worker)
    advance(29)
    assert nothing_to_claim(registry)
    advance(1)
    assert claimed(registry).attempt == 2


@pytest.mark.parametrize("successor", ["second", "first"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_late_worker_changes_nothing(
    *, registry: Registry, book: CodebookName, edit: EditRecord, advance: Advance, write: Write, successor: str
) -> None:
    late = claimed(registry)
    advance(31)
    taken = claimed(registry, successor)
    with pytest.raises(FailedPrecondition, match="'first'") as caught:
        write(registry, late)
    assert caught.value.code == "claim_lost"
    assert registry.extend((late,), lease_s=30) == ()
    assert registry.get_edit(edit.edit_id) == taken.edit
    assert registry.get_codebook(book).revision == 1
    (published,) = registry.publish([(taken, Publication(artifact="aa", base_revision=1))])
    assert (published.artifact, published.attempt) == ("aa", 2)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.usefixtures("edit")
def test_a_finished_edit_is_not_written_again(registry: Registry, book: CodebookName, write: Write) -> None:
    claim = claimed(registry)
    (published,) = registry.publish([(claim, Publication(artifact="aa", base_revision=1))])
    with pytest.raises(FailedPrecondition, match="published") as caught:
        write(registry, claim)
    assert caught.value.code == "claim_lost"
    assert registry.extend((claim,), lease_s=30) == ()
    assert registry.get_edit(published.edit_id) == published
    assert registry.get_codebook(book).revision == 2


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.usefixtures("edit")
def test_a_claim_belongs_to_its_worker(registry: Registry, write: Write) -> None:
    stolen = replace(claimed(registry), worker="thief")
    with pytest.raises(FailedPrecondition, match="thief") as caught:
        write(registry, stolen)
    assert caught.value.code == "claim_lost"
    assert registry.extend((stolen,), lease_s=30) == ()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_claim_names_an_edit_of_its_codebook(registry: Registry, edit: EditRecord, write: Write) -> None:
    forged = replace(claimed(registry), edit=replace(edit, edit_id=EditId("e000")))
    with pytest.raises(NotFound, match="e000") as caught:
        write(registry, forged)
    assert caught.value.code == "unknown_edit"


@pytest.mark.usefixtures("edit")
def test_an_expired_claim_that_nobody_took_still_publishes(registry: Registry, advance: Advance) -> None:
    claim = claimed(registry)
    advance(3600)
    (edit,) = registry.publish([(claim, Publication(artifact="aa", base_revision=1))])
    assert edit.state is EditState.PUBLISHED


def wear_out(registry: Registry, advance: Advance) -> None:
    """Claim the queue's head as often as is allowed; each worker dies on it."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert claimed(registry, f"worker-{attempt}").attempt == attempt
        advance(31)


def test_an_edit_that_kills_its_workers_is_given_up_and_the_next_one_is_handed_out(
    registry: Registry, book: CodebookName, edit: EditRecord, advance: Advance, now: Callable[[], datetime]
) -> None:
    following = registry.submit(book, SPEC)
    wear_out(registry, advance)
    assert registry.get_edit(edit.edit_id).state is EditState.TRAINING
    assert claimed(registry).edit.edit_id == following.edit_id
    given_up = registry.get_edit(edit.edit_id)
    assert (given_up.state, given_up.reason_code) == (EditState.FAILED, "attempts_exhausted")
    assert given_up.reason == "the edit was taken 5 times and never finished; its last worker was 'worker-5'."
    assert (given_up.attempt, given_up.updated_at, given_up.active) == (MAX_ATTEMPTS, now(), False)
    assert registry.get_codebook(book).revision == 1


def test_giving_up_the_last_edit_leaves_nothing_to_claim(
    registry: Registry, edit: EditRecord, advance: Advance
) -> None:
    wear_out(registry, advance)
    assert nothing_to_claim(registry)
    # Closed for good, although the call that closed it had nothing to return.
    assert registry.get_edit(edit.edit_id).state is EditState.FAILED
    assert nothing_to_claim(registry)


@pytest.mark.parametrize("write", WRITES)
def test_a_lost_claim_stays_lost_when_a_later_one_of_its_name_is_given_back(
    registry: Registry, edit: EditRecord, advance: Advance, write: str
) -> None:
    # Where a restarted worker has the name of the one before, and that one lives on.
    lost = claimed(registry, "same")
    advance(31)
    registry.give_back([claimed(registry, "same")])
    with pytest.raises(FailedPrecondition) as caught:
        WRITES[write](registry, lost)
    assert caught.value.code == "claim_lost"
    assert registry.extend([lost], lease_s=30) == ()
    assert registry.get_edit(edit.edit_id).state is EditState.COMMITTED


def test_one_claim_gives_up_all_edits_that_are_due(registry: Registry, create: Create, advance: Advance) -> None:
    poisoned = [registry.submit(create(name), SPEC) for name in ("one", "two")]
    for _ in range(MAX_ATTEMPTS):
        assert {claimed(registry).edit.edit_id for _ in poisoned} == {edit.edit_id for edit in poisoned}
        advance(31)
    assert nothing_to_claim(registry)
    assert {registry.get_edit(edit.edit_id).reason_code for edit in poisoned} == {"attempts_exhausted"}


@pytest.mark.usefixtures("edit")
def test_the_last_attempt_counts_like_the_others(registry: Registry, advance: Advance) -> None:
    for _ in range(MAX_ATTEMPTS - 1):
        claimed(registry)
        advance(31)
    last = claimed(registry, "last")
    advance(20)
    (last,) = registry.extend((last,), lease_s=30)
    advance(20)
    assert nothing_to_claim(registry)
    (edit,) = registry.publish([(last, Publication(artifact="aa", base_revision=1))])
    assert (edit.state, edit.attempt) == (EditState.PUBLISHED, MAX_ATTEMPTS)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.usefixtures("edit")
def test_a_worker_of_an_edit_that_was_given_up_changes_nothing(
    registry: Registry, advance: Advance, write: Write
) -> None:
    for _ in range(MAX_ATTEMPTS):
        late = claimed(registry, "late")
        advance(31)
    assert nothing_to_claim(registry)
    with pytest.raises(FailedPrecondition, match="failed") as caught:
        write(registry, late)
    assert caught.value.code == "claim_lost"
    assert registry.extend((late,), lease_s=30) == ()


def test_a_trained_edit_is_shown_and_still_held(
    registry: Registry, edit: EditRecord, advance: Advance, now: Callable[[], datetime]
) -> None:
    claim = claimed(registry)
    advance(20)
    registry.trained((claim,))
    trained = replace(edit, state=EditState.TRAINED, attempt=1, updated_at=now())
    assert registry.get_edit(edit.edit_id) == trained
    registry.trained((claim,))
    assert registry.get_edit(edit.edit_id) == trained
    assert nothing_to_claim(registry)
    advance(10)
    # It does not lengthen the lease; the next worker trains anew.
    assert claimed(registry).edit.state is EditState.TRAINING


@pytest.mark.parametrize(
    ("write", "state"),
    [("publish", EditState.PUBLISHED), ("fail", EditState.FAILED)],
)
def test_a_trained_edit_goes_on_as_a_training_one(
    registry: Registry, edit: EditRecord, write: str, state: EditState
) -> None:
    claim = claimed(registry)
    registry.trained((claim,))
    (claim,) = registry.extend((claim,), lease_s=30)
    assert claim.edit.state is EditState.TRAINED
    WRITES[write](registry, claim)
    assert registry.get_edit(edit.edit_id).state is state


def test_a_trained_edit_may_be_already_there(registry: Registry, publish: Publish, book: CodebookName) -> None:
    first = publish(book)
    registry.submit(book, SPEC)
    claim = claimed(registry)
    registry.trained((claim,))
    assert registry.finish_same(claim, first.edit_id).state is EditState.PUBLISHED
