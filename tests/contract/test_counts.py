"""Contract of `ports.Registry.counts`."""

from collections.abc import Callable

from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import EditRecord, EditSpec, EditState, RegistryCounts, ReplicaReport
from horen_vllm.registry.ports import Registry


def unfinished(counts: RegistryCounts) -> dict[EditState, int]:
    return {state: number for state, number in counts.unfinished.items() if number}


def test_an_empty_registry_has_nothing(registry: Registry) -> None:
    counts = registry.counts()
    assert unfinished(counts) == {}
    assert (counts.oldest_unfinished_s, counts.claimed, counts.workers) == (0.0, 0, 0)
    assert (counts.live_replicas, counts.codebooks) == (0, 0)


def test_the_queue_is_counted_by_state_and_by_who_holds_it(
    registry: Registry,
    create: Callable[..., CodebookName],
    publish: Callable[..., EditRecord],
    advance: Callable[[float], None],
) -> None:
    first, second = create("first"), create("second", tenant="bolt")
    publish(first)
    for book, number in ((first, 3), (second, 2)):
        for index in range(number):
            registry.submit(book, EditSpec(prompt=f"question {index}", target="answer"))
        advance(10)
    claims = registry.claim("one", lease_s=30, fingerprint="fp", limit=2)
    (other,) = registry.claim("two", lease_s=60, fingerprint="fp")
    registry.trained(claims[:1])
    counts = registry.counts()
    assert unfinished(counts) == {EditState.TRAINED: 1, EditState.TRAINING: 2, EditState.COMMITTED: 2}
    assert (counts.oldest_unfinished_s, counts.claimed, counts.workers, counts.codebooks) == (20.0, 3, 2, 2)
    advance(30)
    counts = registry.counts()
    assert (counts.claimed, counts.workers) == (1, 1), "a lease that has ended holds nothing"
    registry.fail(other, "target_not_reached", "It was not reached.")
    assert sum(unfinished(registry.counts()).values()) == 4


def test_replicas_codebooks_and_events_are_counted(
    registry: Registry, create: Callable[..., CodebookName], advance: Callable[[float], None]
) -> None:
    book = create()
    create("other")
    for replica, lease_s in (("a", 30), ("b", 60)):
        report = ReplicaReport(applied={}, probed={})
        registry.heartbeat(
            replica, model="llama", fingerprint="fp", epoch=registry.epoch(), report=report, lease_s=lease_s
        )
    before = registry.counts()
    registry.delete_codebook(book)
    advance(30)
    after = registry.counts()
    assert (before.live_replicas, after.live_replicas) == (2, 1)
    assert (before.codebooks, after.codebooks) == (2, 1)
    assert after.audit_events == registry.list_audit_events()[-1].number > before.audit_events
