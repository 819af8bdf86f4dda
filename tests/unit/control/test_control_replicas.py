"""ReplicaService over real gRPC and a real registry."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from horen_vllm.control import convert
from horen_vllm.control._pb.horen.v1 import replicas_pb2
from horen_vllm.control.client import EditProgress, EditView, HorenClient, SyncView
from horen_vllm.control.services import replicas as replicas_module
from horen_vllm.errors import FailedPrecondition, InvalidArgument
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.registry.models import EditRecord, EditSpec, FailedProbe, RefusedRevision, ReplicaReport
from horen_vllm.registry.store import SqlRegistry

MODEL: Final[dict[str, Any]] = {"model": "demo-model", "fingerprint": "f" * 64}


def report(applied: dict[Any, int], **more: Any) -> ReplicaReport:
    return ReplicaReport(**{"applied": applied, "probed": applied, **more})


def failed(codebook: CodebookName, edit: EditView, *, base: int, revision: int) -> FailedProbe:
    reason = "no edit fired."
    return FailedProbe(codebook=codebook, edit_id=edit.edit_id, base=base, revision=revision, reason=reason)


def test_first_sync_sends_everything(
    client: HorenClient, demo: CodebookName, submit: Callable[[str], EditView], publish: Callable[[], EditRecord]
) -> None:
    edit = submit("Who leads Acme?")
    publish()
    view = client.sync("replica-1", known={}, **MODEL)
    (delta,) = view.deltas
    assert (delta.codebook.name, delta.base, delta.revision, delta.removed) == (demo, 0, 2, ())
    assert delta.codebook.parameters == client.get_codebook(demo).parameters
    assert [(entry.edit_id, entry.sequence, entry.artifact) for entry in delta.added] == [(edit.edit_id, 1, "ab" * 32)]


def test_later_syncs_send_the_difference(
    client: HorenClient, demo: CodebookName, submit: Callable[[str], EditView], publish: Callable[[], EditRecord]
) -> None:
    edit = submit("Who leads Acme?")
    publish()
    client.rollback(demo, 1)
    (delta,) = client.sync("replica-1", known={demo: 2}, epoch=client.epoch(), **MODEL).deltas
    assert (delta.base, delta.revision, delta.added, delta.removed) == (2, 3, (), (edit.edit_id,))


def test_sync_waits_and_returns_empty(client: HorenClient, demo: CodebookName) -> None:
    begin = time.monotonic()
    assert not client.sync("replica-1", known={demo: 1}, epoch=client.epoch(), wait_s=0.3, **MODEL)
    assert 0.25 < time.monotonic() - begin < 3


def test_sync_returns_as_soon_as_something_changes(
    client: HorenClient, demo: CodebookName, submit: Callable[[str], EditView], publish: Callable[[], EditRecord]
) -> None:
    submit("Who leads Acme?")
    with ThreadPoolExecutor(1) as pool:
        known: dict[str, Any] = {"known": {demo: 1}, "epoch": client.epoch()}
        waiting = pool.submit(lambda: client.sync("replica-1", **known, wait_s=20, **MODEL))
        time.sleep(0.1)
        begin = time.monotonic()
        publish()
        view: SyncView = waiting.result(timeout=10)
    assert view.deltas[0].revision == 2
    assert time.monotonic() - begin < 2


def test_sync_tells_of_codebooks_that_are_gone_or_of_another_model(client: HorenClient, demo: CodebookName) -> None:
    ghost = CodebookName(DEFAULT_TENANT, "ghost")
    assert client.sync("replica-1", known={demo: 1, ghost: 4}, epoch=client.epoch(), **MODEL).removed_codebooks == (
        ghost,
    )
    assert not client.sync("replica-1", model="demo-model", fingerprint="other", known={})


def test_a_replica_that_is_ahead_starts_over(client: HorenClient, demo: CodebookName) -> None:
    (delta,) = client.sync("replica-1", known={demo: 7}, epoch=client.epoch(), **MODEL).deltas
    assert (delta.base, delta.revision) == (0, 1)


def test_of_another_epoch_nothing_is_known(
    client: HorenClient,
    registry: SqlRegistry,
    demo: CodebookName,
    submit: Callable[[str], EditView],
    publish: Callable[[], EditRecord],
) -> None:
    """After a restore, revision 2 may have other entries than the revision 2 that the replica has."""
    edit = submit("Who leads Acme?")
    publish()
    before = client.epoch()
    ghost = CodebookName(DEFAULT_TENANT, "ghost")
    restored = registry.begin_epoch()
    view = client.sync("replica-1", known={demo: 2, ghost: 4}, epoch=before, wait_s=20, **MODEL)
    (delta,) = view.deltas
    assert (delta.base, delta.revision, [it.edit_id for it in delta.added]) == (0, 2, [edit.edit_id])
    assert (view.removed_codebooks, view.epoch) == ((ghost,), restored)
    again = client.sync("replica-1", known={demo: 2}, epoch=view.epoch, **MODEL)
    assert (again.deltas, again.removed_codebooks, again.epoch) == ((), (), restored)


def test_a_replica_that_knows_nothing_is_told_of_the_epoch_at_once(client: HorenClient) -> None:
    begin = time.monotonic()
    view = client.sync("replica-1", known={}, wait_s=20, **MODEL)
    assert (bool(view), view.epoch) == (False, client.epoch())
    assert time.monotonic() - begin < 10


def test_a_waiting_sync_hears_of_another_epoch(client: HorenClient, registry: SqlRegistry, demo: CodebookName) -> None:
    known: dict[str, Any] = {"known": {demo: 1}, "epoch": client.epoch()}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: client.sync("replica-1", **known, wait_s=20, **MODEL))
        epoch = registry.begin_epoch()
        view: SyncView = waiting.result(timeout=10)
    assert (view.epoch, [it.base for it in view.deltas]) == (epoch, [0])


def test_a_heartbeat_of_another_epoch_renews_nothing_and_counts_for_nothing(
    client: HorenClient, registry: SqlRegistry, demo: CodebookName
) -> None:
    before = client.epoch()
    lease = client.heartbeat("replica-1", epoch=before, report=report({demo: 1}), **MODEL)
    assert client.get_codebook(demo).serving
    after = registry.begin_epoch()
    view = client.get_codebook(demo)
    # Its lease goes on, so that SERVING still waits for it.
    assert (view.serving, view.replicas_serving, view.replicas_total) == (False, 0, 1)
    for epoch in (before, ""):
        with pytest.raises(FailedPrecondition) as caught:
            client.heartbeat("replica-1", epoch=epoch, report=report({demo: 1}), lease_s=3_000, **MODEL)
        assert caught.value.code == "other_epoch"
    (live,) = registry.live_replicas()
    assert (live.lease_expires_at, live.report.applied) == (lease, {})
    client.heartbeat("replica-1", epoch=after, report=report({demo: 1}), **MODEL)
    assert client.get_codebook(demo).serving


def test_heartbeat_returns_the_lease(client: HorenClient, demo: CodebookName) -> None:
    lease = client.heartbeat("replica-1", epoch=client.epoch(), report=report({demo: 1}), lease_s=30, **MODEL)
    assert timedelta(seconds=20) < lease - datetime.now(UTC) <= timedelta(seconds=30)
    assert client.get_codebook(demo).serving


def test_leases_end(client: HorenClient, demo: CodebookName) -> None:
    client.heartbeat("replica-1", epoch=client.epoch(), report=report({demo: 1}), lease_s=0.05, **MODEL)
    time.sleep(0.1)
    assert client.get_codebook(demo).replicas_total == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"replica_id": ""}, "invalid_replica_id"),
        ({"replica_id": "r" * 129}, "invalid_replica_id"),
        ({"replica_id": "a\nb"}, "invalid_replica_id"),
        ({"fingerprint": ""}, "missing_fingerprint"),
        ({"lease_s": 0.0}, "invalid_lease"),
        ({"lease_s": 1e9}, "invalid_lease"),
        ({"lease_s": float("nan")}, "invalid_lease"),
        ({"report": report({"demo": 1})}, "invalid_name"),
    ],
)
def test_heartbeat_refuses(client: HorenClient, change: dict[str, Any], code: str) -> None:
    arguments: dict[str, Any] = {"replica_id": "replica-1", "epoch": client.epoch(), "report": report({})}
    arguments |= {**MODEL, **change}
    with pytest.raises(InvalidArgument) as caught:
        client.heartbeat(arguments.pop("replica_id"), **arguments)
    assert caught.value.code == code


@pytest.mark.parametrize("wait_s", [-1.0, 61.0, float("nan")])
def test_sync_refuses_waits_out_of_range(client: HorenClient, wait_s: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.sync("replica-1", known={}, wait_s=wait_s, **MODEL)
    assert caught.value.code == "invalid_wait"


def test_watchers_do_not_starve_calls(client: HorenClient, demo: CodebookName) -> None:
    watches = [client.watch_codebook(demo, timeout_s=20) for _ in range(60)]
    assert all(next(watch).revision == 1 for watch in watches)
    slowest = 0.0
    for _ in range(10):
        begin = time.monotonic()
        client.get_codebook(demo)
        slowest = max(slowest, time.monotonic() - begin)
    assert slowest < 2


def test_a_revision_is_served_once_it_is_applied_and_probed(
    client: HorenClient, demo: CodebookName, submit: Callable[[str], EditView], publish: Callable[[], EditRecord]
) -> None:
    edit = submit("Who leads Acme?")
    publish()
    client.heartbeat("replica-1", epoch=client.epoch(), report=report({demo: 2}, probed={demo: 1}), **MODEL)
    assert client.get_edit(edit).state == EditProgress.PUBLISHED
    assert not client.get_codebook(demo).serving
    client.heartbeat("replica-1", epoch=client.epoch(), report=report({demo: 2}), **MODEL)
    assert client.get_edit(edit).state == EditProgress.SERVING
    client.heartbeat("replica-2", epoch=client.epoch(), report=report({demo: 1}), **MODEL)
    assert client.get_edit(edit).state == EditProgress.PUBLISHED


def test_a_failed_probe_is_said_of_its_edit_and_holds_up_no_other(
    client: HorenClient, demo: CodebookName, submit: Callable[[str], EditView], publish: Callable[[], EditRecord]
) -> None:
    bad, good = submit("Who leads Acme?"), submit("Who leads Globex?")
    publish()
    publish()
    trouble = failed(demo, bad, base=1, revision=2)
    client.heartbeat("replica-1", epoch=client.epoch(), report=report({demo: 3}, failed_probes=(trouble,)), **MODEL)
    view = client.get_edit(bad)
    assert (view.state, view.reason_code, view.replicas_serving) == (EditProgress.PUBLISHED, "probe_failed", 0)
    assert "no edit fired" in str(view.reason)
    assert client.get_edit(good).state == EditProgress.SERVING
    codebook = client.get_codebook(demo)
    assert [(it.replica_id, it.code, it.edit_id) for it in codebook.problems] == [
        ("replica-1", "probe_failed", bad.edit_id)
    ]
    assert [it.serving for it in client.list_revisions(demo)] == [True, False, True]
    client.rollback(demo, 1)
    client.heartbeat("replica-1", epoch=client.epoch(), report=report({demo: 4}), **MODEL)
    assert client.get_edit(bad).reason_code is None


def test_a_watch_tells_of_a_failed_probe(
    client: HorenClient, demo: CodebookName, submit: Callable[[str], EditView], publish: Callable[[], EditRecord]
) -> None:
    edit = submit("Who leads Acme?")
    publish()
    watch = client.watch_edit(edit, timeout_s=20)
    assert next(watch).reason_code is None
    trouble = failed(demo, edit, base=1, revision=2)
    client.heartbeat("replica-1", epoch=client.epoch(), report=report({demo: 2}, failed_probes=(trouble,)), **MODEL)
    view = next(watch)
    assert (view.state, view.reason_code) == (EditProgress.PUBLISHED, "probe_failed")


def test_a_refused_revision_is_a_problem_of_the_codebook(client: HorenClient, demo: CodebookName) -> None:
    refused = RefusedRevision(codebook=demo, revision=1, code="capacity_exhausted", message="Full.")
    client.heartbeat("replica-1", epoch=client.epoch(), report=report({}, refused=(refused,)), **MODEL)
    (problem,) = client.get_codebook(demo).problems
    assert (problem.replica_id, problem.revision, problem.code, problem.message, problem.edit_id) == (
        "replica-1",
        1,
        "capacity_exhausted",
        "Full.",
        None,
    )


def test_what_is_too_much_for_one_answer_comes_in_several(
    client: HorenClient,
    demo: CodebookName,
    submit: Callable[[str], EditView],
    publish: Callable[[], EditRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit("Who leads Acme?")
    publish()
    others = [client.create_codebook(f"more-{number}", preset="cosine", threshold=0.85).name for number in range(3)]
    for name in others:
        client.submit_edit(name, EditSpec(prompt="Who leads Bolt?", target="Max"))
        publish()
    gone = CodebookName(DEFAULT_TENANT, "gone")
    whole = client.sync("replica-1", known={gone: 1}, **MODEL)
    answers: list[replicas_pb2.SyncResponse] = []
    read = convert.sync_from_proto

    def noted(message: replicas_pb2.SyncResponse) -> SyncView:
        answers.append(message)
        return read(message)

    monkeypatch.setattr(replicas_module, "_ENTRIES_AT_ONCE", 2)
    monkeypatch.setattr(convert, "sync_from_proto", noted)
    parts = client.sync("replica-1", known={gone: 1}, **MODEL)
    assert [(len(answer.deltas), answer.more) for answer in answers] == [(2, True), (2, False)]
    assert {delta.codebook.name for delta in parts.deltas} == {demo, *others}
    assert parts == whole
    known = {delta.codebook.name: delta.revision for delta in parts.deltas}
    assert not client.sync("replica-1", known=known, epoch=parts.epoch, **MODEL)


def test_of_two_answers_the_first_tells_of_a_codebook(client: HorenClient, demo: CodebookName) -> None:
    first = client.sync("replica-1", known={}, **MODEL)
    (delta,) = first.deltas
    moved = replace(delta, base=delta.revision, revision=delta.revision + 1)
    other = replace(delta, codebook=replace(delta.codebook, name=CodebookName(DEFAULT_TENANT, "other")))
    joined = replace(first, more=True).followed_by(replace(first, deltas=(moved, other), removed_codebooks=(demo,)))
    # The rest of the way is told next time: what is known by then is the first one's revision.
    assert joined.deltas == (delta, other)
    assert (joined.removed_codebooks, joined.more, joined.epoch) == ((demo,), False, first.epoch)
