"""Contract of `ports.EditQueue`: several edits of one codebook claimed together."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from horen_vllm.errors import FailedPrecondition, InvalidArgument, NotFound
from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import MAX_ATTEMPTS, Claim, EditSpec, EditState, Publication
from horen_vllm.registry.ports import Registry

Advance = Callable[[float], None]
Create = Callable[..., CodebookName]


def submit(registry: Registry, book: CodebookName, count: int) -> list[EditId]:
    return [registry.submit(book, EditSpec(prompt=f"p{number}", target="t")).edit_id for number in range(count)]


def take(registry: Registry, limit: int = 10, worker: str = "first") -> tuple[Claim, ...]:
    return registry.claim(worker, lease_s=30, fingerprint="fp", limit=limit)


def edits_of(claims: tuple[Claim, ...]) -> list[EditId]:
    return [claim.edit.edit_id for claim in claims]


def test_a_batch_is_the_front_of_one_queue_in_order(
    registry: Registry, book: CodebookName, now: Callable[[], datetime], advance: Advance
) -> None:
    edits = submit(registry, book, 5)
    advance(7)
    claims = registry.claim("w", lease_s=12.5, fingerprint="fp", limit=3)
    assert edits_of(claims) == edits[:3]
    for claim in claims:
        assert (claim.worker, claim.attempt, claim.lease_expires_at) == ("w", 1, now() + timedelta(seconds=12.5))
        assert (claim.edit.state, claim.edit.attempt) == (EditState.TRAINING, 1)
        assert registry.get_edit(claim.edit.edit_id) == claim.edit
    assert [registry.get_edit(edit).state for edit in edits[3:]] == [EditState.COMMITTED] * 2


def test_a_batch_is_as_long_as_the_queue_at_most(registry: Registry, book: CodebookName) -> None:
    edits = submit(registry, book, 2)
    assert edits_of(take(registry, limit=64)) == edits
    assert take(registry, limit=64) == ()


def test_a_batch_leaves_out_what_is_finished(registry: Registry, book: CodebookName) -> None:
    edits = submit(registry, book, 4)
    first, second = take(registry, limit=2)
    registry.fail(second, "code", "reason")
    registry.fail(first, "code", "reason")
    assert edits_of(take(registry)) == edits[2:]


def test_two_workers_take_two_codebooks(registry: Registry, create: Create, advance: Advance) -> None:
    busy, idle = create("busy"), create("idle")
    ours = submit(registry, busy, 2)
    advance(1)
    theirs = submit(registry, idle, 2)
    ours += submit(registry, busy, 1)
    assert edits_of(take(registry, worker="first")) == ours
    assert edits_of(take(registry, worker="second")) == theirs
    assert take(registry, worker="third") == ()


def test_a_codebook_has_one_worker_until_the_batch_is_finished(registry: Registry, book: CodebookName) -> None:
    edits = submit(registry, book, 4)
    first, second, third = take(registry, limit=3)
    registry.publish([(first, Publication(artifact="aa", base_revision=1))])
    registry.fail(third, "code", "reason")
    assert take(registry, worker="second") == ()
    registry.finish_same(second, first.edit.edit_id)
    assert edits_of(take(registry, worker="second")) == edits[3:]


def test_after_a_crash_each_edit_is_handed_out_alone(registry: Registry, book: CodebookName, advance: Advance) -> None:
    edits = submit(registry, book, 5)
    take(registry, limit=2)
    advance(31)
    for edit in edits[:2]:
        (again,) = take(registry, worker="second")
        assert (again.edit.edit_id, again.attempt) == (edit, 2)
        assert take(registry, worker="third") == ()
        registry.fail(again, "code", "reason")
    assert edits_of(take(registry, worker="second")) == edits[2:]


def test_a_poison_edit_takes_nobody_with_it(registry: Registry, book: CodebookName, advance: Advance) -> None:
    poison, *others = submit(registry, book, 3)
    take(registry)
    for attempt in range(2, MAX_ATTEMPTS + 1):
        advance(31)
        (claim,) = take(registry, worker="second")
        assert (claim.edit.edit_id, claim.attempt) == (poison, attempt)
    advance(31)
    (claim,) = take(registry, worker="second")
    assert registry.get_edit(poison).reason_code == "attempts_exhausted"
    assert (claim.edit.edit_id, claim.attempt) == (others[0], 2)
    assert registry.get_edit(others[1]).attempt == 1


def test_a_held_edit_ends_the_batch_before_it(registry: Registry, book: CodebookName, advance: Advance) -> None:
    first, held = submit(registry, book, 2)
    claims = take(registry)
    advance(20)
    registry.extend(claims[1:], lease_s=3600)
    advance(20)
    assert edits_of(take(registry, worker="second")) == [first]
    for _ in range(MAX_ATTEMPTS - 2):
        advance(31)
        assert edits_of(take(registry, worker="second")) == [first]
    advance(31)
    # The first is given up now, and the next is somebody's still.
    assert take(registry, worker="second") == ()
    assert registry.get_edit(first).state is EditState.FAILED
    assert edits_of(registry.extend(claims, lease_s=30)) == [held]


def test_whoever_lost_an_edit_has_lost_the_later_ones(registry: Registry, book: CodebookName, advance: Advance) -> None:
    late = take_after_submitting(registry, book, 3)
    advance(31)
    (taken,) = take(registry, worker="second")
    assert registry.extend(late, lease_s=30) == ()
    for claim in late[1:]:
        # Else a later edit would be published before an earlier one of the same prompt, which would then replace it.
        with pytest.raises(FailedPrecondition, match="an earlier edit") as caught:
            registry.publish([(claim, Publication(artifact="late", base_revision=1))])
        assert caught.value.code == "claim_lost"
    (edit,) = registry.publish([(taken, Publication(artifact="aa", base_revision=1))])
    assert edit.published_revision == 2


def test_only_claims_that_still_hold_are_extended(
    registry: Registry, book: CodebookName, advance: Advance, now: Callable[[], datetime]
) -> None:
    first, second, third, fourth = take_after_submitting(registry, book, 4)
    registry.fail(second, "code", "reason")
    advance(20)
    stolen = replace(third, worker="thief")
    held = registry.extend((fourth, second, stolen, first), lease_s=30)
    assert edits_of(held) == [fourth.edit.edit_id, first.edit.edit_id]
    assert {claim.lease_expires_at for claim in held} == {now() + timedelta(seconds=30)}
    assert {(claim.worker, claim.attempt) for claim in held} == {("first", 1)}
    assert [registry.get_edit(claim.edit.edit_id) for claim in held] == [claim.edit for claim in held]
    advance(11)
    # The third ran out, but the queue's head did not.
    assert take(registry, worker="second") == ()


def test_edits_are_trained_together_or_not_at_all(registry: Registry, book: CodebookName) -> None:
    claims = take_after_submitting(registry, book, 3)
    registry.fail(claims[1], "code", "reason")
    with pytest.raises(FailedPrecondition, match=claims[1].edit.edit_id) as caught:
        registry.trained(claims)
    assert caught.value.code == "claim_lost"
    states = [registry.get_edit(claim.edit.edit_id).state for claim in claims]
    assert states == [EditState.TRAINING, EditState.FAILED, EditState.TRAINING]
    registry.trained((claims[0], claims[2]))
    states = [registry.get_edit(claim.edit.edit_id).state for claim in claims]
    assert states == [EditState.TRAINED, EditState.FAILED, EditState.TRAINED]


def test_claims_of_one_call_are_of_one_codebook(registry: Registry, create: Create) -> None:
    for name in ("one", "two"):
        submit(registry, create(name), 1)
    claims = take(registry) + take(registry)
    batch = [(claim, Publication(artifact="aa", base_revision=1)) for claim in claims]
    for write in (
        lambda: registry.extend(claims, lease_s=30),
        lambda: registry.trained(claims),
        lambda: registry.publish(batch),
    ):
        with pytest.raises(InvalidArgument) as caught:
            write()
        assert caught.value.code == "mixed_codebooks"


def test_a_claim_of_no_edit_is_unknown_among_others(registry: Registry, book: CodebookName) -> None:
    claim, other = take_after_submitting(registry, book, 2)
    forged = replace(other, edit=replace(other.edit, edit_id=EditId("e000")))
    with pytest.raises(NotFound, match="e000") as caught:
        registry.trained((claim, forged))
    assert caught.value.code == "unknown_edit"
    assert edits_of(registry.extend((claim, forged), lease_s=30)) == [claim.edit.edit_id]


def test_nothing_is_done_for_no_claims(registry: Registry) -> None:
    registry.trained(())
    assert registry.extend((), lease_s=30) == ()
    assert registry.publish([]) == ()


def take_after_submitting(registry: Registry, book: CodebookName, count: int) -> tuple[Claim, ...]:
    edits = submit(registry, book, count)
    claims = take(registry, limit=count)
    assert edits_of(claims) == edits
    return claims


def test_what_is_given_back_waits_for_the_lease_and_comes_again_together(
    registry: Registry, book: CodebookName, advance: Advance
) -> None:
    edits = submit(registry, book, 3)
    first, *others = take(registry)
    registry.fail(first, "code", "reason")
    registry.give_back([first, *others])
    records = [registry.get_edit(edit) for edit in edits]
    assert [(it.state, it.attempt) for it in records] == [(EditState.FAILED, 1), *[(EditState.COMMITTED, 0)] * 2]
    assert registry.extend(others, lease_s=30) == ()
    assert take(registry, worker="second") == ()
    advance(31)
    again = take(registry, worker="second")
    assert [(claim.edit.edit_id, claim.attempt) for claim in again] == [(edit, 1) for edit in edits[1:]]
    registry.give_back(others)
    assert registry.extend(again, lease_s=30), "nobody gives back what another one holds"
