"""The worker with calibrated codebooks: revisions carry thresholds, copies follow, and files that are not right."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from horen_vllm.artifact import decode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.calibration.background import builtin_background
from horen_vllm.editor.calibration.calibrated import CalibratedPreset, CalibrationSettings, calibrate_presets
from horen_vllm.editor.codebook.arena import KeyArena
from horen_vllm.editor.codebook.false_fires import LOWEST, false_fires_of
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.working.books import BookShelf
from horen_vllm.editor.working.worker import EditorWorker
from horen_vllm.errors import FailedPrecondition, Unavailable
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId
from horen_vllm.registry.models import EditSpec, EditState, RevisionKind
from horen_vllm.spaces import SpaceManifest, encode_space

from .faulty_registry import OTHERS, SPEC, FaultyRegistry, create, states

FOLLOWED, SUBJECTS = (CodebookName(DEFAULT_TENANT, name) for name in ("followed", "subjects"))

RISING = (OTHERS[0], OTHERS[2], SPEC)
"""Each calls for a higher threshold than those before it."""
MANIFEST = SpaceManifest(
    fingerprint="0" * 64, site="s", window_ratio=0.6, span="content", prompts=300, source="built-in"
)


@pytest.fixture(scope="module")
def presets(editable: EditableModel) -> dict[str, CalibratedPreset]:
    settings = CalibrationSettings(false_fire_rate=0.05)
    return calibrate_presets(editable, "tiny", builtin_background()[:300], settings).presets


def trained(parameters: MethodParameters) -> MethodParameters:
    """Return parameters that a tiny model can be trained with."""
    return replace(parameters, max_steps=200, stop_loss=0.2, learning_rate=0.3, noise=0.0)


@pytest.fixture
def books(
    registry: FaultyRegistry, artifacts: ArtifactFolder, editable: EditableModel, presets: dict[str, CalibratedPreset]
) -> dict[CodebookName, CalibratedPreset]:
    """Two codebooks, and all files that they name."""
    made = {FOLLOWED: presets["cosine"], SUBJECTS: presets["calibrated"]}
    for name, preset in made.items():
        create(registry, name, editable, trained(preset.parameters))
        for data in preset.files.values():
            artifacts.put(data)
    return made


@pytest.fixture
def shelf(registry: FaultyRegistry, artifacts: ArtifactFolder, editable: EditableModel) -> BookShelf:
    return BookShelf(registry, artifacts, editable, MemoryLimit(64 << 20))


def scratch(registry: FaultyRegistry, artifacts: ArtifactFolder, name: CodebookName, preset: CalibratedPreset) -> float:
    """Return the threshold that the entries of the current revision call for."""
    assert preset.background is not None
    arena = KeyArena(preset.background.shape[1])
    fires = false_fires_of(preset.background, preset.parameters, arena)
    for ref in registry.delta(name, 0).added:
        entry = decode_entry(artifacts.read(ref.artifact))
        if not entry.manifest.anchors:
            fires.hold(arena.hold(entry.keys, ref.sequence))
    return fires.threshold()


def thresholds(registry: FaultyRegistry, name: CodebookName) -> list[float]:
    return [revision.threshold for revision in sorted(registry.list_revisions(name), key=lambda it: it.number)]


@pytest.mark.parametrize("batch", [1, 8])
def test_revisions_carry_the_threshold_and_rollback_restores_it(
    books: dict[CodebookName, CalibratedPreset],
    new_worker: Callable[..., EditorWorker],
    registry: FaultyRegistry,
    artifacts: ArtifactFolder,
    submit: Callable[..., list[EditId]],
    shelf: BookShelf,
    batch: int,
) -> None:
    worker = new_worker(batch=batch)
    early = shelf.current(FOLLOWED)
    assert early.parameters.threshold == LOWEST
    submit(*RISING, OTHERS[1], name=FOLLOWED)
    while worker.run_once():
        pass
    found = thresholds(registry, FOLLOWED)
    assert len(found) == 5
    assert found == sorted(found)
    assert LOWEST == found[0] < found[1] < found[2] < found[3]
    assert found[-1] == scratch(registry, artifacts, FOLLOWED, books[FOLLOWED])
    assert shelf.current(FOLLOWED) is early
    assert early.parameters.threshold == found[-1] == registry.get_codebook(FOLLOWED).parameters.threshold

    registry.rollback(FOLLOWED, 3)
    assert registry.get_codebook(FOLLOWED).parameters.threshold == thresholds(registry, FOLLOWED)[-1] == found[2]
    assert shelf.current(FOLLOWED).parameters.threshold == found[2]
    assert scratch(registry, artifacts, FOLLOWED, books[FOLLOWED]) == found[2]
    # The worker's own copy goes on from there: the same edit has the same threshold as then.
    submit(RISING[2], name=FOLLOWED)
    while worker.run_once():
        pass
    assert thresholds(registry, FOLLOWED)[-1] == found[3] == scratch(registry, artifacts, FOLLOWED, books[FOLLOWED])
    assert shelf.current(FOLLOWED).parameters.threshold == found[3]


def test_subjects_fire_in_the_workers_copy_until_they_leave(
    books: dict[CodebookName, CalibratedPreset],
    worker: EditorWorker,
    registry: FaultyRegistry,
    artifacts: ArtifactFolder,
    submit: Callable[..., list[EditId]],
    shelf: BookShelf,
) -> None:
    spec = EditSpec(prompt="Who leads Acme?", target="Ann", subject="Acme", aliases=("ACME Inc.",))
    edits = submit(spec, replace(spec, subject="Nowhere"), EditSpec(prompt="Zz top is", target="Q"), name=SUBJECTS)
    while worker.run_once():
        pass
    assert states(registry, edits) == [
        ("published", 2, None),
        ("failed", None, "subject_not_found"),
        ("published", 3, None),
    ]
    record = registry.get_edit(edits[0])
    assert record.artifact is not None
    entry = decode_entry(artifacts.read(record.artifact))
    assert entry.manifest.anchors == ("acme", "acme inc")
    assert entry.keys.shape[1] == books[SUBJECTS].keying.width(48)
    found = thresholds(registry, SUBJECTS)
    assert found[:2] == [LOWEST, LOWEST]
    assert found[2] == scratch(registry, artifacts, SUBJECTS, books[SUBJECTS]) > LOWEST

    book = shelf.current(SUBJECTS)
    assert book.subjects is not None
    context = entry.manifest.contexts[0]
    ruling = book.subjects.rule(context)
    assert (ruling.entry, round(ruling.score, 4)) == (record.sequence, 1.0)
    registry.rollback(SUBJECTS, 1)
    assert shelf.current(SUBJECTS) is book
    assert book.subjects.rule(context).entry == -1
    assert book.parameters.threshold == LOWEST
    registry.rollback(SUBJECTS, 3)
    assert shelf.current(SUBJECTS).subjects.rule(context) == ruling  # type: ignore[union-attr]
    assert shelf.current(SUBJECTS).parameters.threshold == found[2]


@pytest.mark.parametrize("kind", ["space", "background"])
def test_a_file_that_is_not_there_is_waited_for(
    books: dict[CodebookName, CalibratedPreset],
    worker: EditorWorker,
    registry: FaultyRegistry,
    artifacts: ArtifactFolder,
    submit: Callable[..., list[EditId]],
    kind: str,
) -> None:
    digest = str(getattr(books[SUBJECTS].parameters, kind))
    data = artifacts.read(digest)
    artifacts.path(digest).unlink()
    [edit] = submit(SPEC, name=SUBJECTS)
    with pytest.raises(Unavailable, match=f"reading codebook .*{digest}") as caught:
        worker.run_once()
    assert caught.value.code == "editor_surroundings"
    assert registry.get_edit(edit).state is not EditState.FAILED
    artifacts.put(data)
    registry.ahead = timedelta(seconds=120)
    assert worker.run_once()
    assert registry.get_edit(edit).state is EditState.PUBLISHED


def test_a_space_of_another_model_is_refused(
    books: dict[CodebookName, CalibratedPreset],
    worker: EditorWorker,
    registry: FaultyRegistry,
    artifacts: ArtifactFolder,
    editable: EditableModel,
    submit: Callable[..., list[EditId]],
    shelf: BookShelf,
) -> None:
    name, preset = CodebookName(DEFAULT_TENANT, "foreign"), books[SUBJECTS]
    space = preset.keying.space
    assert space is not None
    foreign = encode_space(space, MANIFEST)
    create(registry, name, editable, trained(replace(preset.parameters, space=artifacts.put(foreign))))
    with pytest.raises(FailedPrecondition, match="another base model") as caught:
        shelf.current(name)
    assert caught.value.code == "fingerprint_mismatch"
    edits = submit(SPEC, *OTHERS[:1], name=name)
    assert worker.run_once()
    assert {state[::2] for state in states(registry, edits)} == {("failed", "fingerprint_mismatch")}
    assert registry.get_codebook(name).revision == 1


@pytest.mark.usefixtures("books")
def test_copies_do_not_share_their_thresholds(
    worker: EditorWorker,
    submit: Callable[..., list[EditId]],
    shelf: BookShelf,
) -> None:
    submit(*OTHERS, name=FOLLOWED)
    while worker.run_once():
        pass
    followed, subjects = shelf.current(FOLLOWED), shelf.current(SUBJECTS)
    assert followed.parameters.threshold > subjects.parameters.threshold == LOWEST


def make_all(worker: EditorWorker) -> None:
    while worker.run_once():
        pass


def test_what_was_retired_leaves_no_trace_in_the_threshold(
    books: dict[CodebookName, CalibratedPreset],
    worker: EditorWorker,
    registry: FaultyRegistry,
    artifacts: ArtifactFolder,
    submit: Callable[..., list[EditId]],
    shelf: BookShelf,
) -> None:
    submit(*RISING[:2], name=FOLLOWED)
    make_all(worker)
    before = shelf.current(FOLLOWED)
    scores, threshold = before.arena.keys.clone(), before.parameters.threshold
    entries = registry.entries(FOLLOWED)
    [edit] = submit(RISING[2], name=FOLLOWED)
    make_all(worker)
    raised = registry.get_codebook(FOLLOWED).parameters.threshold
    assert raised > threshold
    registry.retire_edit(edit)
    # Conservative until it is computed: nothing fires that did not.
    assert registry.get_codebook(FOLLOWED).parameters.threshold == raised
    make_all(worker)
    last = registry.list_revisions(FOLLOWED)[-1]
    assert (last.kind, last.threshold) == (RevisionKind.THRESHOLD, threshold)
    assert threshold == scratch(registry, artifacts, FOLLOWED, books[FOLLOWED])
    assert registry.entries(FOLLOWED) == entries
    after = shelf.current(FOLLOWED)
    assert after.parameters.threshold == threshold
    assert after.floors == before.floors
    held = after.arena.keys[after.arena.owners >= 0]
    assert held.equal(scores)
    event = next(it for it in registry.list_audit_events() if it.method == "set_threshold")
    assert event.actor == "workers/w1"
    # A new publication judges and counts as if the retired edit had never been.
    submit(RISING[2], name=FOLLOWED)
    make_all(worker)
    assert registry.get_codebook(FOLLOWED).parameters.threshold == raised


@pytest.mark.usefixtures("books")
def test_an_emptied_codebook_is_as_strict_as_a_new_one(
    worker: EditorWorker, registry: FaultyRegistry, submit: Callable[..., list[EditId]]
) -> None:
    for edit in submit(*RISING, name=FOLLOWED):
        make_all(worker)
        registry.retire_edit(edit)
    make_all(worker)
    assert thresholds(registry, FOLLOWED)[-1] == LOWEST
    assert not worker.run_once()


def test_a_threshold_that_cannot_be_computed_keeps_nobody_waiting(
    books: dict[CodebookName, CalibratedPreset],
    new_worker: Callable[..., EditorWorker],
    registry: FaultyRegistry,
    artifacts: ArtifactFolder,
    submit: Callable[..., list[EditId]],
) -> None:
    [edit] = submit(SPEC, name=FOLLOWED)
    make_all(new_worker())
    registry.retire_edit(edit)
    artifacts.path(str(books[FOLLOWED].parameters.background)).unlink()
    [other] = submit(OTHERS[0], name=SUBJECTS)
    make_all(new_worker(worker_id="w2"))
    assert registry.get_edit(other).state is EditState.PUBLISHED
    assert list(registry.thresholds_due(registry.get_codebook(FOLLOWED).fingerprint)) == [FOLLOWED]
