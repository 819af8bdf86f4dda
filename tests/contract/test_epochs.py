"""Contract of `ports.EpochStore`: what tells revisions of before and after a restore apart."""

from collections.abc import Callable

import pytest

from horen_vllm.errors import FailedPrecondition
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import ReplicaReport
from horen_vllm.registry.ports import Registry


def beat(registry: Registry, epoch: str, report: ReplicaReport, lease_s: float = 30) -> None:
    registry.heartbeat("r1", model="m", fingerprint="fp", epoch=epoch, report=report, lease_s=lease_s)


def test_the_epoch_stays(open_registry: Callable[[], Registry], book: CodebookName) -> None:
    first, second = open_registry(), open_registry()
    epoch = first.epoch()
    first.rollback(book, 1)
    assert epoch
    assert second.epoch() == epoch


def test_another_epoch_is_begun_and_noted(open_registry: Callable[[], Registry]) -> None:
    first, second = open_registry(), open_registry()
    before = first.epoch()
    epochs = [first.begin_epoch(), second.begin_epoch()]
    assert len({before, *epochs}) == 3
    assert first.epoch() == second.epoch() == epochs[1]
    events = list(first.list_audit_events())[-2:]
    assert [(it.method, it.actor, it.tenant, it.resource) for it in events] == [
        ("begin_epoch", "local", None, "registry")
    ] * 2
    assert [it.detail for it in events] == [
        {"before": before, "epoch": epochs[0]},
        {"before": epochs[0], "epoch": epochs[1]},
    ]


def test_reports_of_before_are_forgotten_while_their_leases_go_on(registry: Registry, book: CodebookName) -> None:
    report = ReplicaReport(applied={book: 1}, probed={book: 1})
    beat(registry, registry.epoch(), report)
    (before,) = registry.live_replicas()
    registry.begin_epoch()
    (after,) = registry.live_replicas()
    assert after.report == ReplicaReport(applied={}, probed={})
    assert after.lease_expires_at == before.lease_expires_at


@pytest.mark.parametrize("known", [True, False])
def test_a_heartbeat_of_another_epoch_changes_nothing(registry: Registry, book: CodebookName, *, known: bool) -> None:
    report = ReplicaReport(applied={book: 1}, probed={book: 1})
    before = registry.epoch()
    if known:
        beat(registry, before, report)
    current = registry.begin_epoch()
    there = list(registry.live_replicas())
    for epoch in (before, "", "\x00"):
        with pytest.raises(FailedPrecondition) as caught:
            beat(registry, epoch, report, lease_s=60)
        assert caught.value.code == "other_epoch"
    assert list(registry.live_replicas()) == there
    beat(registry, current, report)
    assert [it.report for it in registry.live_replicas()] == [report]
