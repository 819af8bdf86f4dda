"""The clock is set back by an hour: nothing is handed out twice, and what has ended stays ended."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from horen_vllm.errors import FailedPrecondition, NotFound
from horen_vllm.ids import DEFAULT_TENANT
from horen_vllm.keys import new_key
from horen_vllm.registry.models import (
    Claim,
    EditRecord,
    EditSpec,
    KeyScope,
    Publication,
    ReplicaReport,
    RequestKey,
)
from horen_vllm.registry.ports import Registry
from horen_vllm.registry.store import SqlRegistry
from horen_vllm.testing.memory.registry import MemoryRegistry
from tests.contract.conftest import ManualClock
from tests.faults.conftest import BOOK, make_book
from tests.unit.serving.live.world import FINGERPRINT

SPEC = EditSpec(prompt="who leads Rome?", target="Ada")
HOUR = timedelta(hours=1).total_seconds()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite", "postgres", "memory"])
def registry(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[Registry]:
    opened: Registry
    if request.param == "memory":
        opened = MemoryRegistry(clock=clock)
    else:
        opened = SqlRegistry(request.getfixturevalue(f"{request.param}_url"), clock=clock)
    make_book(opened)
    yield opened
    opened.close()


def claim(registry: Registry, worker: str) -> tuple[Claim, ...]:
    return registry.claim(worker, lease_s=30, fingerprint=FINGERPRINT)


def publish(registry: Registry, held: Claim) -> EditRecord:
    base = registry.get_codebook(BOOK).revision
    (edit,) = registry.publish([(held, Publication(artifact="a" * 64, base_revision=base))])
    return edit


def active(registry: Registry) -> set[str]:
    return {entry.edit_id for entry in registry.entries(BOOK)}


def test_a_held_edit_is_not_handed_out_twice(registry: Registry, clock: ManualClock) -> None:
    registry.submit(BOOK, SPEC)
    (held,) = claim(registry, "first")
    clock.advance(-HOUR)
    assert claim(registry, "second") == ()
    assert publish(registry, held).published_revision == 2


def test_a_lost_claim_stays_lost(registry: Registry, clock: ManualClock) -> None:
    registry.submit(BOOK, SPEC)
    (lost,) = claim(registry, "first")
    clock.advance(31)
    (held,) = claim(registry, "second")
    clock.advance(-HOUR)
    with pytest.raises(FailedPrecondition) as refused:
        publish(registry, lost)
    assert refused.value.code == "claim_lost"
    assert registry.extend([lost], lease_s=30) == ()
    publish(registry, held)
    assert registry.get_codebook(BOOK).revision == 2


def test_an_expired_edit_never_fires_again(registry: Registry, clock: ManualClock) -> None:
    edit = registry.submit(BOOK, SPEC, ttl_s=60.0)
    publish(registry, claim(registry, "worker")[0])
    clock.advance(61)
    assert registry.retire_expired() == 1
    clock.advance(-HOUR)
    assert registry.retire_expired() == 0
    assert active(registry) == set()
    # Also by a rollback to a revision that had it, and by another one after that.
    for _ in range(2):
        registry.rollback(BOOK, 2)
        assert active(registry) == set()
        assert registry.get_edit(edit.edit_id).retired_at is not None


def test_an_edit_that_has_time_left_comes_back_by_a_rollback(registry: Registry, clock: ManualClock) -> None:
    edit = registry.submit(BOOK, SPEC, ttl_s=10 * HOUR)
    publish(registry, claim(registry, "worker")[0])
    registry.retire_edit(edit.edit_id)
    clock.advance(-HOUR)
    registry.rollback(BOOK, 2)
    assert active(registry) == {edit.edit_id}


def test_a_request_is_answered_once_more(registry: Registry, clock: ManualClock) -> None:
    key = RequestKey(tenant=DEFAULT_TENANT, method="SubmitEdit", request_id="r", digest="d" * 64)
    first = registry.submit(BOOK, SPEC, request=key)
    for hours in (-1, -30, 40):
        clock.advance(hours * HOUR)
        assert registry.submit(BOOK, SPEC, request=key).edit_id == first.edit_id
    assert [it.edit_id for it in registry.list_edits(BOOK)] == [first.edit_id]


def test_a_key_that_was_refused_for_its_age_stays_refused(registry: Registry, clock: ManualClock) -> None:
    made = new_key()
    registry.add_key(made.key_id, made.digest, tenant=None, scope=KeyScope.ADMIN, lifetime_s=60.0)
    assert registry.resolve_key(made.digest).key_id == made.key_id
    clock.advance(60)
    with pytest.raises(NotFound):
        registry.resolve_key(made.digest)
    clock.advance(-HOUR)
    with pytest.raises(NotFound):
        registry.resolve_key(made.digest)
    (listed,) = registry.list_keys()
    assert listed.revoked_at == listed.expires_at


def test_a_replica_is_waited_for_longer_and_not_shorter(registry: Registry, clock: ManualClock) -> None:
    report = ReplicaReport(applied={BOOK: 1}, probed={BOOK: 1})
    registry.heartbeat("r1", model="m", fingerprint=FINGERPRINT, epoch=registry.epoch(), report=report, lease_s=30)
    clock.advance(-HOUR)
    assert [it.replica_id for it in registry.live_replicas(FINGERPRINT)] == ["r1"]


def test_sequences_and_revisions_grow(registry: Registry, clock: ManualClock) -> None:
    for _ in range(3):
        registry.submit(BOOK, SPEC)
        publish(registry, claim(registry, "worker")[0])
        clock.advance(-HOUR)
    assert [it.sequence for it in registry.list_edits(BOOK)] == [1, 2, 3]
    assert [it.number for it in registry.list_revisions(BOOK)] == [1, 2, 3, 4]
