"""The worker answers previews: what would become of an edit, without training it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.working import previewing
from horen_vllm.editor.working.worker import EditorWorker
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId
from horen_vllm.registry.models import EditSpec, EditState
from horen_vllm.registry.preview_records import PreviewAnswer, PreviewVerdict

from .faulty_registry import NAME, OTHERS, SPEC, FaultyRegistry, create

Preview = Callable[..., PreviewAnswer]


@pytest.fixture
def preview(registry: FaultyRegistry, worker: EditorWorker) -> Preview:
    def ask(spec: EditSpec, name: CodebookName = NAME) -> PreviewAnswer:
        asked = registry.ask_preview(name, spec, wait_s=60)
        assert worker.run_once()
        answer = registry.preview_answer(asked)
        assert answer is not None
        return answer

    return ask


def test_each_verdict_is_what_becomes_of_the_edit(
    preview: Preview, worker: EditorWorker, registry: FaultyRegistry, submit: Callable[..., list[EditId]]
) -> None:
    empty = preview(SPEC)
    assert (empty.verdict, empty.revision, empty.related, empty.collisions) == (PreviewVerdict.NEW, 1, (), ())
    [edit] = submit(SPEC)
    assert worker.run_once()
    same = preview(replace(SPEC, prompt="who leads  acme?"))
    assert (same.verdict, same.revision, same.related) == (PreviewVerdict.SAME, 2, (edit,))
    newer = preview(replace(SPEC, target="Bob"))
    assert (newer.verdict, newer.related) == (PreviewVerdict.SUPERSEDES, (edit,))
    assert preview(OTHERS[0]).verdict is PreviewVerdict.NEW
    # Nothing of it is left.
    assert [it.edit_id for it in registry.list_edits(NAME)] == [edit]
    assert registry.get_codebook(NAME).revision == 2


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (replace(SPEC, must_not_fire=("Who leads Acme?",)), "must_not_fire_fires"),
        (replace(SPEC, prompt="w" * 300), "prompt_too_long"),
    ],
)
def test_a_refusal_is_told_before_it_happens(preview: Preview, spec: EditSpec, code: str) -> None:
    answer = preview(spec)
    assert (answer.verdict, answer.refusal_code) == (PreviewVerdict.REFUSED, code)
    assert answer.refusal


def test_texts_that_other_entries_match_are_named_nearest_first(
    preview: Preview, worker: EditorWorker, submit: Callable[..., list[EditId]]
) -> None:
    edits = submit(SPEC, *OTHERS)
    assert worker.run_once()
    spec = EditSpec(prompt="~~ ~~ ~~", target="Z", must_not_fire=("Who leads Acme?", OTHERS[0].prompt))
    found = {(it.edit_id, it.text): it for it in preview(spec).collisions}
    for edit, text in ((edits[0], "Who leads Acme?"), (edits[1], OTHERS[0].prompt)):
        collision = found[edit, text]
        assert collision.score == pytest.approx(1.0, abs=1e-4)
        assert collision.threshold == 0.995
    distances = [it.threshold - it.score for it in preview(spec).collisions]
    assert distances == sorted(distances)
    # What says the same is no collision.
    assert all(it.edit_id != edits[0] for it in preview(replace(SPEC, prompt="Who leads ACME?")).collisions)


def test_codebooks_that_go_by_distances_have_verdicts_too(
    preview: Preview, registry: FaultyRegistry, editable: EditableModel, parameters: MethodParameters
) -> None:
    name = CodebookName(DEFAULT_TENANT, "grace")
    from horen_vllm.core.presets import preset_parameters

    create(registry, name, editable, preset_parameters("grace", "tiny"))
    answer = preview(SPEC, name)
    assert (answer.verdict, answer.collisions) == (PreviewVerdict.NEW, ())


def test_a_preview_waits_for_no_more_than_a_batch(
    new_worker: Callable[..., EditorWorker], registry: FaultyRegistry, submit: Callable[..., list[EditId]]
) -> None:
    edits = submit(SPEC, *OTHERS)
    worker = new_worker(batch=2)
    asked = registry.ask_preview(NAME, SPEC, wait_s=60)
    assert worker.run_once()
    assert registry.preview_answer(asked) is not None
    states = [registry.get_edit(edit).state for edit in edits]
    assert states == [EditState.PUBLISHED] * 2 + [EditState.COMMITTED] * 2


def test_nobody_waits_for_a_preview_that_was_dropped(
    worker: EditorWorker, registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = registry.ask_preview(NAME, SPEC, wait_s=60)
    real = registry.claim_preview

    def claim_and_leave(*args: str, **settings: object) -> object:
        task = real(*args, **settings)  # type: ignore[arg-type]
        registry.drop_preview(asked)
        return task

    monkeypatch.setattr(registry, "claim_preview", claim_and_leave)
    assert worker.run_once()
    assert not worker.run_once()


def test_a_defect_refuses_the_preview_only(
    worker: EditorWorker, registry: FaultyRegistry, preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object) -> None:
        raise TypeError("boom")

    with monkeypatch.context() as patched:
        patched.setattr(previewing, "EditBatch", broken)
        answer = preview(SPEC)
    assert (answer.verdict, answer.refusal_code) == (PreviewVerdict.REFUSED, "internal_error")
    assert preview(SPEC).verdict is PreviewVerdict.NEW


def test_an_edit_that_is_retired_in_a_batch_takes_no_other_with_it(
    worker: EditorWorker, registry: FaultyRegistry, submit: Callable[..., list[EditId]], trainings: list[int]
) -> None:
    edits = submit(SPEC, replace(SPEC, target="Bob"), *OTHERS)
    registry.before_publish = [lambda: registry.retire_edit(edits[0])]
    assert worker.run_once()
    records = [registry.get_edit(edit) for edit in edits]
    assert [it.state for it in records] == [EditState.FAILED, *[EditState.PUBLISHED] * 4]
    assert (records[0].reason_code, records[1].supersedes) == ("retired", ())
    assert [it.published_revision for it in records[1:]] == [2, 3, 4, 5]
    assert trainings == [5]
