"""The worker when its surroundings fail: order is kept, and no edit is blamed for what is not its fault."""

import errno
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.editor import passes
from horen_vllm.editor.prepare import prepare_edits
from horen_vllm.editor.working.lease import LeaseKeeper
from horen_vllm.editor.working.worker import EditorWorker
from horen_vllm.errors import FailedPrecondition, Unavailable
from horen_vllm.ids import EditId
from horen_vllm.registry.models import MAX_ATTEMPTS, Claim, EditRecord, EditSpec

from .faulty_registry import NAME, OTHERS, SPEC, FaultyRegistry, no_registry, states

Submit = Callable[..., list[EditId]]
P, Q, R = "Zz top is", "0123456789", "[[{}]] =="


def finish(worker: EditorWorker, registry: FaultyRegistry) -> None:
    """Let the leases end and work until nothing is left."""
    registry.ahead += timedelta(hours=1)
    while worker.run_once():
        pass


def full_disk(_self: ArtifactFolder, _data: bytes) -> str:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("outage", [False, True])
def test_an_edit_that_an_outage_kept_from_failing_is_not_made_after_its_successors(
    worker: EditorWorker, registry: FaultyRegistry, submit: Submit, monkeypatch: pytest.MonkeyPatch, outage: bool
) -> None:
    edits = submit(EditSpec(prompt=Q, target="A", paraphrases=(R,)))
    assert worker.run_once()
    edits += submit(
        EditSpec(prompt=P, target="A2", paraphrases=(R,)),
        EditSpec(prompt=P, target="C"),
        EditSpec(prompt=Q, target="D"),
    )
    real, left = registry.fail, [1] if outage else []

    def fail(claim: Claim, code: str, reason: str, **settings: Any) -> EditRecord:
        if left:
            left.pop()
            raise no_registry()
        return real(claim, code, reason, **settings)

    monkeypatch.setattr(registry, "fail", fail)
    if outage:
        with pytest.raises(Unavailable):
            worker.run_once()
    finish(worker, registry)
    assert states(registry, edits) == [
        ("published", 2, None),
        ("failed", None, "earlier_entry_silenced"),
        ("published", 3, None),
        ("published", 4, None),
    ]
    assert [registry.get_edit(edit).active for edit in edits] == [False, False, True, True]


def test_an_edit_does_not_fail_for_an_entry_that_has_left(
    worker: EditorWorker, registry: FaultyRegistry, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = submit(EditSpec(prompt=Q, target="A"))
    assert worker.run_once()
    edits += submit(EditSpec(prompt=P, target="B", paraphrases=(Q,)), EditSpec(prompt="w" * 300, target="B"))
    real = prepare_edits

    def slow(*args: Any) -> Any:
        prepared = real(*args)
        registry.rollback(NAME, 1)
        return prepared

    monkeypatch.setattr(passes, "prepare_edits", slow)
    assert worker.run_once()
    assert states(registry, edits)[1:] == [("published", 4, None), ("failed", None, "prompt_too_long")]


def test_a_full_disk_fails_no_edit(
    worker: EditorWorker, registry: FaultyRegistry, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = submit(SPEC, *OTHERS)

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactFolder, "put", full_disk)
        with pytest.raises(Unavailable, match="No space left on device") as caught:
            worker.run_once()
    assert caught.value.code == "editor_surroundings"
    assert [state for state, *_ in states(registry, edits)] == ["committed"] * 4
    finish(worker, registry)
    assert states(registry, edits) == [("published", revision, None) for revision in (2, 3, 4, 5)]


@pytest.mark.parametrize("code", ["artifacts_forbidden", "artifacts_unavailable"])
def test_a_store_that_refuses_fails_no_edit(
    worker: EditorWorker, registry: FaultyRegistry, submit: Submit, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    edits = submit(SPEC, *OTHERS)

    def refuse(*_: object) -> str:
        kind = Unavailable if code == "artifacts_unavailable" else FailedPrecondition
        raise kind("the store refuses.", code=code)

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactFolder, "put", refuse)
        with pytest.raises(Unavailable, match=r"publishing entries failed: .*the store refuses"):
            worker.run_once()
    assert [state for state, *_ in states(registry, edits)] == ["committed"] * 4
    finish(worker, registry)
    assert states(registry, edits) == [("published", revision, None) for revision in (2, 3, 4, 5)]


def test_an_entry_that_was_collected_is_stored_again(
    worker: EditorWorker,
    registry: FaultyRegistry,
    artifacts: ArtifactFolder,
    submit: Submit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edits = submit(SPEC)
    put = ArtifactFolder.put

    def collected(store: ArtifactFolder, data: bytes) -> str:
        digest = put(store, data)
        assert registry.condemn_artifacts(grace_s=0) == [digest]
        assert registry.sweep_artifacts(store.delete, grace_s=0) == [digest]
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactFolder, "put", collected)
        with pytest.raises(Unavailable, match="publishing entries failed"):
            worker.run_once()
    finish(worker, registry)
    assert states(registry, edits) == [("published", 2, None)]
    digest = registry.get_edit(edits[0]).artifact
    assert digest is not None
    assert artifacts.read(digest)


@pytest.mark.parametrize("damage", ["missing", "corrupt", "folder"])
def test_a_file_that_cannot_be_read_fails_no_edit(
    worker: EditorWorker,
    new_worker: Callable[..., EditorWorker],
    registry: FaultyRegistry,
    artifacts: ArtifactFolder,
    submit: Submit,
    damage: str,
) -> None:
    edits = submit(SPEC)
    assert worker.run_once()
    artifact = registry.get_edit(edits[0]).artifact
    assert artifact is not None
    path = artifacts.path(artifact)
    data = path.read_bytes()
    path.unlink()
    if damage == "corrupt":
        path.write_bytes(data[:-1])
    elif damage == "folder":
        path.mkdir()
    edits += submit(*OTHERS)
    other = new_worker(worker_id="w2")
    with pytest.raises(Unavailable, match="reading") as caught:
        other.run_once()
    assert caught.value.code == "editor_surroundings"
    assert [state for state, *_ in states(registry, edits)] == ["published", *["committed"] * 3]
    path.rmdir() if damage == "folder" else path.unlink(missing_ok=True)
    path.write_bytes(data)
    finish(other, registry)
    assert [state for state, *_ in states(registry, edits)] == ["published"] * 4


def test_a_lender_whose_file_is_gone_fails_no_edit(
    worker: EditorWorker, registry: FaultyRegistry, artifacts: ArtifactFolder, submit: Submit
) -> None:
    edits = submit(SPEC)
    assert worker.run_once()
    edits += submit(OTHERS[0], EditSpec(prompt="~~ ~~", target=SPEC.target, paraphrases=(SPEC.prompt,)))
    artifact = registry.get_edit(edits[0]).artifact
    assert artifact is not None
    artifacts.path(artifact).unlink()
    with pytest.raises(Unavailable, match=f"reading the entry of edit {edits[0]}"):
        worker.run_once()
    assert [state for state, *_ in states(registry, edits)] == ["published", "published", "committed"]


def test_a_device_that_fails_ends_the_worker_and_no_edit(
    worker: EditorWorker, registry: FaultyRegistry, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = submit(SPEC, *OTHERS)

    def dead(*_args: Any) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(passes, "prepare_edits", dead)
    with pytest.raises(torch.AcceleratorError):
        worker.run_once()
    assert [state for state, *_ in states(registry, edits)] == ["training"] * 4


class OddQueue:
    """A queue that raises what it should not."""

    def __init__(self) -> None:
        self.calls = 0
        self.again = threading.Event()

    def extend(self, _claims: Sequence[Claim], *, lease_s: float) -> tuple[Claim, ...]:
        self.calls += 1
        if self.calls > 1:
            self.again.set()
        raise RuntimeError(f"odd, {lease_s}")


def test_leases_are_extended_again_after_any_error() -> None:
    queue = OddQueue()
    with capture_logs() as lines, LeaseKeeper(queue, (), lease_s=0.003):  # type: ignore[arg-type]
        assert queue.again.wait(timeout=30)
    assert {line["event"] for line in lines} == {"leases not extended"}


def test_a_fault_that_lasts_uses_up_no_attempts(
    worker: EditorWorker, registry: FaultyRegistry, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = submit(SPEC, *OTHERS)
    with monkeypatch.context() as patch:
        patch.setattr(ArtifactFolder, "put", full_disk)
        for _ in range(MAX_ATTEMPTS + 1):
            with pytest.raises(Unavailable):
                worker.run_once()
            assert not worker.run_once(), "the leases hold"
            registry.ahead += timedelta(hours=1)
    finish(worker, registry)
    assert states(registry, edits) == [("published", revision, None) for revision in (2, 3, 4, 5)]
    assert [len(group) for group in registry.states_at_publish] == [4]
