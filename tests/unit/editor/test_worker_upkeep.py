"""The worker beside its edits: its copies of codebooks, its log and metrics, its way out of too large batches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor import passes
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.working import progress, work
from horen_vllm.editor.working.metrics import EditorMetrics
from horen_vllm.editor.working.worker import EditorWorker
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId

from .faulty_registry import NAME, OTHERS, SPEC, FaultyRegistry, create, states


def test_the_copy_of_a_codebook_is_not_read_again(
    worker: EditorWorker, registry: FaultyRegistry, artifacts: ArtifactFolder, submit: Callable[..., list[EditId]]
) -> None:
    edits = submit(SPEC)
    assert worker.run_once()
    artifact = registry.get_edit(edits[0]).artifact
    assert artifact is not None
    artifacts.path(artifact).unlink()
    edits += submit(replace(SPEC, prompt="WHO leads acme?"), *OTHERS)
    assert worker.run_once()
    assert registry.deltas == [0, 2]
    assert registry.get_edit(edits[1]).same_as == edits[0]
    assert [state for state, *_ in states(registry, edits)] == ["published"] * 5


def test_the_copy_follows_a_rollback(
    worker: EditorWorker, registry: FaultyRegistry, submit: Callable[..., list[EditId]]
) -> None:
    edits = submit(SPEC)
    assert worker.run_once()
    registry.rollback(NAME, 1)
    edits += submit(SPEC)
    assert worker.run_once()
    registry.rollback(NAME, 2)
    edits += submit(SPEC)
    assert worker.run_once()
    records = [registry.get_edit(edit) for edit in edits]
    assert [record.same_as for record in records] == [None, None, edits[0]]
    assert [record.published_revision for record in records] == [2, 4, 5]


def test_a_few_copies_are_kept(
    worker: EditorWorker,
    registry: FaultyRegistry,
    submit: Callable[..., list[EditId]],
    editable: EditableModel,
    parameters: MethodParameters,
) -> None:
    names = [CodebookName(DEFAULT_TENANT, f"book-{number}") for number in range(5)]
    for name in names:
        create(registry, name, editable, parameters)
    for name in (*names, names[4], names[0]):
        submit(replace(SPEC, prompt="w" * 300), name=name)
        assert worker.run_once()
    assert registry.deltas == [0, 0, 0, 0, 0, 1, 0]


def test_log_and_metrics_tell_what_was_done(
    worker: EditorWorker,
    submit: Callable[..., list[EditId]],
    metrics: EditorMetrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    submit(SPEC, SPEC, replace(SPEC, prompt="w" * 300), *OTHERS)
    with capture_logs() as lines:
        assert worker.run_once()
    events = {line["event"]: line for line in lines}
    assert events["batch claimed"]["edits"] == 6
    assert 0 < events["training"]["still_training"] <= 4
    done = events["batch done"]
    assert (done["new"], done["same"], done["failed"], done["given_up"]) == (4, 1, 1, 0)
    value = metrics.registry.get_sample_value
    assert value("horen_editor_edits_total", {"outcome": "new"}) == 4
    assert value("horen_editor_failures_total", {"code": "prompt_too_long"}) == 1
    assert value("horen_editor_batch_edits_sum") == 6
    assert value("horen_editor_edits_in_hand") == value("horen_editor_edits_training") == 0
    assert value("horen_editor_memory_limit_bytes") == 64 << 20
    for phase in ("prepare", "load", "train", "make", "publish"):
        assert (value("horen_editor_phase_seconds_total", {"phase": phase}) or 0.0) > 0.0


@pytest.mark.parametrize("step", ["prepare_edits", "require_target"])
def test_out_of_memory_is_met_with_smaller_batches(
    worker: EditorWorker,
    registry: FaultyRegistry,
    submit: Callable[..., list[EditId]],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """An edit that no batch of more than one has room for, and one that fits nowhere."""
    edits = submit(*OTHERS, SPEC)
    sizes: list[int] = []

    def cramped(self: work.BatchWork, *args: Any) -> None:
        sizes.append(len(args[1]))
        real_init(self, *args)

    def short(editable: EditableModel, subject: Any, *rest: Any) -> Any:
        about = [record.edit_id for record in subject] if step == "prepare_edits" else [subject.prospect.edit_id]
        if edits[3] in about or (edits[1] in about and sizes[-1] > 1):
            raise torch.OutOfMemoryError("no room")
        return real(editable, subject, *rest)

    real_init, real = work.BatchWork.__init__, getattr(passes, step)
    monkeypatch.setattr(work.BatchWork, "__init__", cramped)
    monkeypatch.setattr(passes, step, short)
    assert worker.run_once()
    published = [("published", revision, None) for revision in (2, 3, 4)]
    assert states(registry, edits) == [*published, ("failed", None, "out_of_memory")]
