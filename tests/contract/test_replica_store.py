"""Contract of `ports.ReplicaStore`."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.models import FailedProbe, RefusedRevision, ReplicaRecord, ReplicaReport
from horen_vllm.registry.ports import Registry

ONE = CodebookName(TenantId("acme"), "one")
TWO = CodebookName(TenantId("globex"), "two")


def report(applied: Mapping[CodebookName, int]) -> ReplicaReport:
    return ReplicaReport(applied=dict(applied), probed=dict(applied))


def beat(
    registry: Registry, replica: str, applied: Mapping[CodebookName, int], fingerprint: str = "fp"
) -> ReplicaRecord:
    epoch = registry.epoch()
    return registry.heartbeat(
        replica, model="m", fingerprint=fingerprint, epoch=epoch, report=report(applied), lease_s=30
    )


def test_a_heartbeat_is_recorded(registry: Registry, now: Callable[[], datetime]) -> None:
    record = beat(registry, "r1", {TWO: 7, ONE: 3})
    assert record == ReplicaRecord(
        replica_id="r1",
        model="m",
        fingerprint="fp",
        report=report({ONE: 3, TWO: 7}),
        lease_expires_at=now() + timedelta(seconds=30),
    )
    assert list(registry.live_replicas()) == [record]


def test_what_went_wrong_is_recorded(registry: Registry) -> None:
    trouble = ReplicaReport(
        applied={ONE: 3},
        probed={ONE: 2},
        failed_probes=(FailedProbe(codebook=ONE, edit_id=EditId("e1"), base=1, revision=2, reason="No."),),
        refused=(RefusedRevision(codebook=TWO, revision=9, code="capacity_exhausted", message="Full."),),
    )
    record = registry.heartbeat("r1", model="m", fingerprint="fp", epoch=registry.epoch(), report=trouble, lease_s=30)
    assert record.report == trouble
    assert list(registry.live_replicas()) == [record]


def test_the_last_heartbeat_replaces_the_others(registry: Registry) -> None:
    beat(registry, "r1", {ONE: 3, TWO: 7})
    last = beat(registry, "r1", {ONE: 4}, fingerprint="new")
    assert last.report.applied == {ONE: 4}
    assert list(registry.live_replicas()) == [last]


def test_a_replica_lives_as_long_as_its_lease(registry: Registry, advance: Callable[[float], None]) -> None:
    beat(registry, "r2", {})
    advance(20)
    beat(registry, "r1", {})
    assert [replica.replica_id for replica in registry.live_replicas()] == ["r1", "r2"]
    advance(10)
    assert [replica.replica_id for replica in registry.live_replicas()] == ["r1"]
    beat(registry, "r2", {})
    assert [replica.replica_id for replica in registry.live_replicas()] == ["r1", "r2"]
    advance(3 * 24 * 3600)
    beat(registry, "r3", {})
    assert [replica.replica_id for replica in registry.live_replicas()] == ["r3"]


def test_replicas_are_listed_for_a_base_model(registry: Registry) -> None:
    beat(registry, "r1", {}, fingerprint="one")
    beat(registry, "r2", {}, fingerprint="two")
    assert [replica.replica_id for replica in registry.live_replicas("two")] == ["r2"]
    assert list(registry.live_replicas("three")) == []
