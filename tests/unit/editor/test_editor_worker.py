"""The worker against the SQL registry: publishing, failing, moved revisions, lost claims, outages."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.artifact import ArtifactFolder, decode_entry
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor import editing
from horen_vllm.editor.model import EditableModel
from horen_vllm.editor.train import TrainedValue, train_value
from horen_vllm.editor.verify import check_target
from horen_vllm.editor.worker import EditorWorker
from horen_vllm.errors import Unavailable
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.registry.migrate import upgrade
from horen_vllm.registry.models import Claim, EditRecord, EditSpec, EditState, Publication
from horen_vllm.registry.store import SqlRegistry

NAME = CodebookName(DEFAULT_TENANT, "facts")
SPEC = EditSpec(prompt="Who leads Acme?", target="Ann")


class FaultyRegistry(SqlRegistry):
    """The real registry with a clock to turn and faults to order."""

    def __init__(self, url: str) -> None:
        self.ahead = timedelta()
        super().__init__(url, clock=lambda: datetime.now(UTC) + self.ahead)
        self.before_publish: list[Callable[[], object]] = []
        self.states_at_publish: list[EditState] = []
        self.outages = 0
        self.extensions = 0

    def claim(self, worker: str, *, lease_s: float, fingerprint: str) -> Claim | None:
        if self.outages:
            self.outages -= 1
            raise Unavailable("the database does not answer.", code="registry_unavailable")
        return super().claim(worker, lease_s=lease_s, fingerprint=fingerprint)

    def extend(self, claim: Claim, *, lease_s: float) -> Claim:
        self.extensions += 1
        return super().extend(claim, lease_s=lease_s)

    def publish(self, claim: Claim, publication: Publication) -> EditRecord:
        self.states_at_publish.append(self.get_edit(claim.edit.edit_id).state)
        if self.before_publish:
            self.before_publish.pop(0)()
        return super().publish(claim, publication)


@pytest.fixture
def registry(tmp_path: Path, editable: EditableModel, parameters: MethodParameters) -> Iterator[FaultyRegistry]:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    upgrade(url)
    registry = FaultyRegistry(url)
    registry.create_codebook(
        NAME, model="tiny", fingerprint=editable.fingerprint, site=editable.site, parameters=parameters
    )
    yield registry
    registry.close()


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFolder:
    return ArtifactFolder(tmp_path / "artifacts")


@pytest.fixture
def worker(registry: FaultyRegistry, artifacts: ArtifactFolder, editable: EditableModel) -> EditorWorker:
    return EditorWorker(
        registry=registry, artifacts=artifacts, editable=editable, worker_id="w1", lease_s=60.0, poll_s=0.01
    )


def test_publishes_a_verified_entry(
    worker: EditorWorker, registry: FaultyRegistry, artifacts: ArtifactFolder, editable: EditableModel
) -> None:
    submitted = registry.submit(NAME, SPEC)
    assert worker.run_once()
    assert not worker.run_once()
    record = registry.get_edit(submitted.edit_id)
    assert (record.state, record.active, record.published_revision) == (EditState.PUBLISHED, True, 2)
    assert record.artifact is not None
    entry = decode_entry(artifacts.read(record.artifact))
    assert entry.manifest.edit_id == submitted.edit_id
    assert entry.manifest.fingerprint == editable.fingerprint


def test_same_superseding_and_new_edits(worker: EditorWorker, registry: FaultyRegistry) -> None:
    targets = [("Who leads Acme?", "Ann"), ("who leads acme?", "Ann"), ("Who leads Acme?", "Bob"), ("Zz top is", "Q")]
    edits = [registry.submit(NAME, EditSpec(prompt=prompt, target=target)).edit_id for prompt, target in targets]
    while worker.run_once():
        pass
    first, same, newer, other = (registry.get_edit(edit) for edit in edits)
    assert same.same_as == first.edit_id
    assert newer.supersedes == (first.edit_id,)
    assert [record.active for record in (first, newer, other)] == [False, True, True]
    assert registry.get_codebook(NAME).revision == 4


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (replace(SPEC, must_not_fire=("Who leads Acme?",)), "must_not_fire_fires"),
        (replace(SPEC, prompt="w" * 300), "prompt_too_long"),
    ],
)
def test_failure_is_stored_with_its_reason(
    worker: EditorWorker, registry: FaultyRegistry, spec: EditSpec, code: str
) -> None:
    submitted = registry.submit(NAME, spec)
    assert worker.run_once()
    record = registry.get_edit(submitted.edit_id)
    assert (record.state, record.reason_code) == (EditState.FAILED, code)
    assert record.reason
    assert registry.get_codebook(NAME).revision == 1


def test_an_edit_is_not_trained_before_it_is_verified(
    worker: EditorWorker, registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[EditState] = []
    submitted = registry.submit(NAME, SPEC)

    def looking(*args: Any) -> None:
        seen.append(registry.get_edit(submitted.edit_id).state)
        check_target(*args)

    monkeypatch.setattr(editing, "check_target", looking)
    assert worker.run_once()
    assert seen == [EditState.TRAINING]
    assert registry.states_at_publish == [EditState.TRAINED]


def test_unexpected_error_fails_the_edit_and_the_worker_goes_on(
    worker: EditorWorker, registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = registry.submit(NAME, SPEC), registry.submit(NAME, replace(SPEC, target="Bob"))
    with monkeypatch.context() as patch:
        patch.setattr(editing, "queries", None)
        assert worker.run_once()
    record = registry.get_edit(first.edit_id)
    assert (record.state, record.reason_code) == (EditState.FAILED, "internal_error")
    assert "TypeError" in (record.reason or "")
    assert worker.run_once()
    assert registry.get_edit(second.edit_id).state is EditState.PUBLISHED


def test_moved_revision_is_admitted_again_without_training(
    worker: EditorWorker, registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def counted(*args: Any) -> TrainedValue:
        runs.append(args)
        return train_value(*args)

    monkeypatch.setattr(editing, "train_value", counted)
    registry.before_publish = [lambda: registry.rollback(NAME, 1)] * 2
    submitted = registry.submit(NAME, SPEC)
    assert worker.run_once()
    record = registry.get_edit(submitted.edit_id)
    assert (record.state, record.published_revision) == (EditState.PUBLISHED, 4)
    assert len(runs) == 1
    assert registry.states_at_publish == [EditState.TRAINED] * 3


def test_revision_that_always_moves_fails_in_the_end(worker: EditorWorker, registry: FaultyRegistry) -> None:
    registry.before_publish = [lambda: registry.rollback(NAME, 1)] * 9
    submitted = registry.submit(NAME, SPEC)
    assert worker.run_once()
    record = registry.get_edit(submitted.edit_id)
    assert (record.state, record.reason_code) == (EditState.FAILED, "revision_moved")


def test_lost_claim_is_dropped(worker: EditorWorker, registry: FaultyRegistry, editable: EditableModel) -> None:
    def other_worker_takes_over() -> None:
        registry.ahead = timedelta(seconds=120)
        assert registry.claim("w2", lease_s=60.0, fingerprint=editable.fingerprint) is not None

    registry.before_publish = [other_worker_takes_over]
    submitted = registry.submit(NAME, SPEC)
    assert worker.run_once()
    record = registry.get_edit(submitted.edit_id)
    assert (record.state, record.attempt, record.reason_code) == (EditState.TRAINING, 2, None)
    assert registry.get_codebook(NAME).revision == 1


def test_lease_is_extended_while_training(
    registry: FaultyRegistry, artifacts: ArtifactFolder, editable: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: Any) -> TrainedValue:
        time.sleep(1.0)
        return train_value(*args)

    monkeypatch.setattr(editing, "train_value", slow)
    worker = EditorWorker(registry=registry, artifacts=artifacts, editable=editable, worker_id="w1", lease_s=0.6)
    submitted = registry.submit(NAME, SPEC)
    assert worker.run_once()
    assert registry.extensions >= 3
    assert registry.get_edit(submitted.edit_id).state is EditState.PUBLISHED


def test_outage_is_waited_out(worker: EditorWorker, registry: FaultyRegistry) -> None:
    registry.outages = 3
    submitted = registry.submit(NAME, SPEC)
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 30
    while registry.get_edit(submitted.edit_id).state is not EditState.PUBLISHED:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stop.set()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_edits_of_another_model_are_left_alone(worker: EditorWorker, registry: FaultyRegistry) -> None:
    other = CodebookName(DEFAULT_TENANT, "other")
    parameters = registry.get_codebook(NAME).parameters
    registry.create_codebook(other, model="big", fingerprint="0" * 64, site="x", parameters=parameters)
    registry.submit(other, SPEC)
    assert not worker.run_once()
