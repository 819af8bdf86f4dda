"""The worker against the SQL registry: batches, publishing, failing, moved revisions, lost claims, outages."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import torch

from horen_vllm.artifact import decode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor import passes
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.training.train import TrainedValue, train_values
from horen_vllm.editor.training.verify import require_target
from horen_vllm.editor.working import publishing
from horen_vllm.editor.working.metrics import EditorMetrics
from horen_vllm.editor.working.worker import EditorWorker
from horen_vllm.errors import HorenError, Unavailable
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId
from horen_vllm.registry.models import Claim, EditSpec, EditState

from .faulty_registry import NAME, OTHERS, SPEC, FaultyRegistry, create, no_registry, states


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


def test_a_batch_is_trained_at_once_and_published_in_one_transaction(
    worker: EditorWorker, registry: FaultyRegistry, submit: Callable[..., list[EditId]], trainings: list[int]
) -> None:
    edits = submit(SPEC, *OTHERS)
    assert worker.run_once()
    assert states(registry, edits) == [("published", revision, None) for revision in (2, 3, 4, 5)]
    assert trainings == [4]
    assert registry.states_at_publish == [[EditState.TRAINED] * 4]
    assert registry.get_codebook(NAME).entry_count == 4


def test_a_batch_has_a_limit(
    new_worker: Callable[..., EditorWorker], registry: FaultyRegistry, submit: Callable[..., list[EditId]]
) -> None:
    edits = submit(SPEC, *OTHERS)
    worker = new_worker(batch=3)
    assert worker.run_once()
    assert [state for state, *_ in states(registry, edits)] == ["published"] * 3 + ["committed"]


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_same_superseding_failing_and_new_edits(
    new_worker: Callable[..., EditorWorker],
    registry: FaultyRegistry,
    submit: Callable[..., list[EditId]],
    batch: int,
) -> None:
    edits = submit(
        SPEC,
        replace(SPEC, prompt="who leads acme?"),
        replace(SPEC, prompt="w" * 300),
        replace(SPEC, target="Bob"),
        replace(SPEC, target="Bob"),
        *OTHERS[:1],
    )
    worker = new_worker(batch=batch)
    while worker.run_once():
        pass
    first, same, bad, newer, again, other = (registry.get_edit(edit) for edit in edits)
    assert same.same_as == first.edit_id
    assert bad.reason_code == "prompt_too_long"
    assert newer.supersedes == (first.edit_id,)
    assert again.same_as == newer.edit_id
    assert [record.active for record in (first, newer, other)] == [False, True, True]
    assert [record.published_revision for record in (first, newer, other)] == [2, 3, 4]
    assert registry.get_codebook(NAME).revision == 4


def test_what_is_ready_does_not_wait_for_long(
    worker: EditorWorker,
    registry: FaultyRegistry,
    submit: Callable[..., list[EditId]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "_FLUSH_S", 0.0)
    submit(SPEC, *OTHERS)
    assert worker.run_once()
    assert [len(group) for group in registry.states_at_publish] == [1, 1, 1, 1]


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


def test_an_edit_that_the_model_answers_already_is_published_with_a_note(
    worker: EditorWorker, registry: FaultyRegistry, editable: EditableModel, parameters: MethodParameters
) -> None:
    name = CodebookName(DEFAULT_TENANT, "known")
    create(registry, name, editable, replace(parameters, chat=False, train_end=False, stop_loss=20.0))
    prompt, target = next(pair for pair in _answers(editable) if pair[1].isalnum())
    submitted = registry.submit(name, EditSpec(prompt=prompt, target=target))
    assert worker.run_once()
    record = registry.get_edit(submitted.edit_id)
    assert (record.state, record.active, record.reason_code) == (EditState.PUBLISHED, True, "already_answered")
    assert record.reason


def _answers(editable: EditableModel) -> Iterator[tuple[str, str]]:
    for number in range(100):
        prompt = f"{number} is "
        ids = torch.tensor([editable.tokenizer(prompt).input_ids])
        token = int(editable.model(input_ids=ids).logits[0, -1].argmax())
        yield prompt, str(editable.tokenizer.decode([token]))


def test_an_edit_is_not_trained_before_it_is_verified(
    worker: EditorWorker, registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[EditState] = []
    submitted = registry.submit(NAME, SPEC)

    def looking(*args: Any) -> None:
        seen.append(registry.get_edit(submitted.edit_id).state)
        require_target(*args)

    monkeypatch.setattr(passes, "require_target", looking)
    assert worker.run_once()
    assert seen == [EditState.TRAINING]
    assert registry.states_at_publish == [[EditState.TRAINED]]


@pytest.mark.parametrize("step", ["prepare_edits", "require_target"])
def test_unexpected_error_fails_its_edit_only(
    worker: EditorWorker,
    registry: FaultyRegistry,
    submit: Callable[..., list[EditId]],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    real = getattr(passes, step)
    edits = submit(*OTHERS, SPEC, replace(SPEC, prompt="~~ ~~ ~~"))

    def breaking(editable: EditableModel, subject: Any, *rest: Any) -> Any:
        about = [record.edit_id for record in subject] if step == "prepare_edits" else [subject.prospect.edit_id]
        if edits[1] in about:
            raise TypeError("boom")
        return real(editable, subject, *rest)

    monkeypatch.setattr(passes, step, breaking)
    assert worker.run_once()
    published = [("published", revision, None) for revision in (2, 3, 4, 5)]
    assert states(registry, edits) == [published[0], ("failed", None, "internal_error"), *published[1:]]
    assert "TypeError" in (registry.get_edit(edits[1]).reason or "")
    assert not worker.run_once()


def test_moved_revision_is_admitted_again_without_training(
    worker: EditorWorker, registry: FaultyRegistry, submit: Callable[..., list[EditId]], trainings: list[int]
) -> None:
    registry.before_publish = [lambda: registry.rollback(NAME, 1)] * 2
    edits = submit(SPEC, *OTHERS)
    assert worker.run_once()
    assert states(registry, edits) == [("published", revision, None) for revision in (4, 5, 6, 7)]
    assert trainings == [4]
    assert {state for group in registry.states_at_publish for state in group} == {EditState.TRAINED}


def test_revision_that_always_moves_fails_in_the_end(
    worker: EditorWorker, registry: FaultyRegistry, submit: Callable[..., list[EditId]]
) -> None:
    registry.before_publish = [lambda: registry.rollback(NAME, 1)] * 5
    edits = submit(SPEC, *OTHERS)
    assert worker.run_once()
    published = [("published", revision, None) for revision in (7, 8, 9)]
    assert states(registry, edits) == [("failed", None, "revision_moved"), *published]


def test_lost_claim_is_dropped(worker: EditorWorker, registry: FaultyRegistry, editable: EditableModel) -> None:
    def other_worker_takes_over() -> None:
        registry.ahead = timedelta(seconds=120)
        assert registry.claim("w2", lease_s=60.0, fingerprint=editable.fingerprint)

    registry.before_publish = [other_worker_takes_over]
    submitted = registry.submit(NAME, SPEC)
    assert worker.run_once()
    record = registry.get_edit(submitted.edit_id)
    assert (record.state, record.attempt, record.reason_code) == (EditState.TRAINING, 2, None)
    assert registry.get_codebook(NAME).revision == 1


def test_an_edit_closed_elsewhere_does_not_stop_the_others(
    worker: EditorWorker,
    registry: FaultyRegistry,
    submit: Callable[..., list[EditId]],
    editable: EditableModel,
    metrics: EditorMetrics,
) -> None:
    edits = submit(SPEC, replace(SPEC, target="Bob"), *OTHERS)

    def first_is_failed_by_another() -> None:
        claims = registry.claim("w1", lease_s=60.0, fingerprint=editable.fingerprint, limit=9)
        assert not claims, "the batch is held"
        registry.fail(replace(held[0]), "target_not_reached", "another worker said so.")

    held: list[Claim] = []
    real = registry.claim

    def remembering(*args: Any, **settings: Any) -> tuple[Claim, ...]:
        claims = real(*args, **settings)
        held.extend(claims)
        return claims

    registry.claim = remembering  # type: ignore[method-assign]
    registry.before_publish = [first_is_failed_by_another]
    assert worker.run_once()
    published = [("published", revision, None) for revision in (2, 3, 4, 5)]
    assert states(registry, edits) == [("failed", None, "target_not_reached"), *published]
    assert registry.get_edit(edits[1]).supersedes == ()
    assert metrics.registry.get_sample_value("horen_editor_edits_total", {"outcome": "lost"}) == 1


def test_leases_are_extended_together_while_training(
    new_worker: Callable[..., EditorWorker],
    registry: FaultyRegistry,
    submit: Callable[..., list[EditId]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(*args: Any) -> list[TrainedValue | HorenError]:
        time.sleep(1.0)
        return list(train_values(*args))

    monkeypatch.setattr(passes, "train_values", slow)
    edits = submit(SPEC, *OTHERS)
    assert new_worker(lease_s=0.6).run_once()
    assert len(registry.extensions) >= 3
    assert set(registry.extensions[:3]) == {4}
    assert [state for state, *_ in states(registry, edits)] == ["published"] * 4


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


def test_what_an_outage_kept_from_being_published_leaves_no_trace(
    worker: EditorWorker, registry: FaultyRegistry, submit: Callable[..., list[EditId]]
) -> None:
    def outage() -> None:
        raise no_registry()

    registry.before_publish = [outage]
    edits = submit(SPEC, replace(SPEC, target="Bob"), *OTHERS[:1])
    with pytest.raises(Unavailable):
        worker.run_once()
    assert not worker.run_once()
    registry.ahead = timedelta(seconds=120)
    while worker.run_once():
        pass
    assert states(registry, edits) == [("published", revision, None) for revision in (2, 3, 4)]
    assert registry.get_edit(edits[1]).supersedes == (edits[0],)


def test_edits_of_another_model_are_left_alone(worker: EditorWorker, registry: FaultyRegistry) -> None:
    other = CodebookName(DEFAULT_TENANT, "other")
    parameters = registry.get_codebook(NAME).parameters
    registry.create_codebook(other, model="big", fingerprint="0" * 64, site="x", parameters=parameters)
    registry.submit(other, SPEC)
    assert not worker.run_once()
