"""Edits of the demo model's world in a calibrated codebook and in GRACE's: every kind, refusal, batch and threshold."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from horen_vllm.core.admission import AdmissionKind
from horen_vllm.core.euclid import lifted_key
from horen_vllm.core.presets import preset_parameters
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.demo.world import World, build_world
from horen_vllm.editor.calibration.calibrated import CalibratedPreset, CalibrationSettings, calibrate_presets
from horen_vllm.editor.calibration.prompt import BackgroundPrompt
from horen_vllm.editor.codebook.arena import KeyArena
from horen_vllm.editor.codebook.balls import effective_radii
from horen_vllm.editor.codebook.false_fires import FLOOR_MARGIN, LOWEST, false_fires_of
from horen_vllm.editor.editing import EditOutcome
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.errors import HorenError
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EditRecord
from tests.unit.editor.making import Book, edit_record

ANN, BO = "Ann", "Bo"


@pytest.fixture(scope="module")
def demo() -> EditableModel:
    return load_editable_model(str(demo_model_dir()))


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


@pytest.fixture(scope="module")
def preset(demo: EditableModel, world: World) -> CalibratedPreset:
    facts = [fact for fact in world.facts if fact.fact_id % 7 == 0]
    prompts = [BackgroundPrompt(world.prompt(fact, fact.fact_id % 5), fact.subject, fact.relation) for fact in facts]
    settings = CalibrationSettings(false_fire_rate=0.02)
    made = calibrate_presets(demo, "horen-demo", prompts, settings).presets["calibrated"]
    # Less training: whether values are good is tested elsewhere.
    quick = replace(made.parameters, noise=0.0, train_end=False, stop_when_greedy=True, stop_loss=1.0)
    return replace(made, keying=replace(made.keying, parameters=quick))


@pytest.fixture
def book(demo: EditableModel, preset: CalibratedPreset) -> Book:
    return Book(demo, preset.keying, background=preset.background)


def subject(world: World, number: int, relation: str = "founder") -> str:
    """A subject that is not in the background."""
    facts = [fact for fact in world.facts if fact.relation == relation and fact.fact_id % 7]
    return facts[number].subject


def asked(world: World, number: int, wording: int = 0, relation: str = "founder") -> str:
    return world.relations[relation].wordings[wording].format(subject=subject(world, number, relation))


def code_of(book: Book, record: EditRecord) -> str:
    with pytest.raises(HorenError) as caught:
        book.edit(record)
    return caught.value.code


def from_scratch(book: Book, preset: CalibratedPreset) -> float:
    """Return the threshold of a codebook with the keys of the entries without anchors."""
    assert preset.background is not None
    live = [entry.artifact for edit, entry in book.entries.items() if edit in book.copy]
    arena = KeyArena(preset.background.shape[1])
    fires = false_fires_of(preset.background, preset.parameters, arena)
    for number, artifact in enumerate(reversed(live)):
        if not artifact.manifest.anchors:
            fires.hold(arena.hold(artifact.keys, number))
    return fires.threshold()


def test_edits_on_subjects_are_new_the_same_superseded_and_aliases(book: Book, world: World) -> None:
    name = subject(world, 0)
    first = book.edit(edit_record(asked(world, 0), ANN, subject=name))
    assert (first.kind, first.overlaps, first.threshold) == (AdmissionKind.NEW, (), LOWEST)
    assert first.artifact is not None
    manifest = first.artifact.manifest
    assert manifest.anchors == (" ".join(name.lower().split()),)
    assert all(context.masked for context in manifest.contexts)
    assert len(manifest.contexts) == 2
    same = book.edit(edit_record(asked(world, 0).upper(), ANN, sequence=2, subject=name.title()))
    assert (same.kind, same.same_as) == (AdmissionKind.SAME, "e1")
    alias = book.edit(edit_record(asked(world, 0, 5), ANN, sequence=3, subject=name))
    assert (alias.kind, alias.alias_of) == (AdmissionKind.ALIAS, "e1")
    newer = book.edit(edit_record(asked(world, 0), BO, sequence=4, subject=name))
    assert (newer.kind, newer.supersedes, newer.overlaps) == (AdmissionKind.SUPERSEDE, ("e1",), ())
    other = book.edit(edit_record(asked(world, 1), BO, sequence=5, subject=subject(world, 1)))
    assert (other.kind, other.overlaps) == (AdmissionKind.NEW, ())
    # Entries with anchors have no part in the threshold.
    assert other.threshold == book.copy.parameters.threshold == LOWEST


def test_names_that_an_edit_cannot_fire_with_are_refused(book: Book, world: World) -> None:
    prompt, name = asked(world, 0), subject(world, 0)
    assert code_of(book, edit_record(prompt, ANN, subject="Nowhere")) == "subject_not_found"
    paraphrase: dict[str, Any] = {"subject": name, "paraphrases": ("Who began it?",)}
    assert code_of(book, edit_record(prompt, ANN, **paraphrase)) == "subject_not_found"
    assert code_of(book, edit_record(prompt, ANN, subject="?!")) == "invalid_anchor"
    assert code_of(book, edit_record(prompt, ANN, subject=name, aliases=("…",))) == "invalid_anchor"
    assert code_of(book, edit_record(prompt, ANN, subject=name, aliases=("a " * 140,))) == "invalid_anchor"
    assert book.copy.entries == 0
    both = edit_record(prompt, ANN, subject="It", aliases=(name,), paraphrases=("Who began it?",))
    assert book.edit(both).kind is AdmissionKind.NEW


def test_an_edit_without_a_subject_may_not_ask_for_anothers(book: Book, world: World) -> None:
    book.edit(edit_record(asked(world, 0), ANN, subject=subject(world, 0)))
    assert code_of(book, edit_record(asked(world, 0, 1), BO, sequence=2)) == "key_not_matched"
    assert book.edit(edit_record(asked(world, 1), BO, sequence=3)).kind is AdmissionKind.NEW


def test_the_threshold_follows_the_keys_and_comes_back(book: Book, world: World, preset: CalibratedPreset) -> None:
    thresholds = [LOWEST]
    for sequence in range(1, 9):
        outcome = book.edit(edit_record(asked(world, sequence), ANN if sequence % 2 else BO, sequence=sequence))
        assert outcome.threshold == book.copy.parameters.threshold == from_scratch(book, preset)
        thresholds.append(book.copy.parameters.threshold)
    assert thresholds == sorted(thresholds)
    assert thresholds[0] < thresholds[1] < thresholds[-1]
    # What a superseded entry called for goes with it.
    newer = book.edit(edit_record(asked(world, 3), "Cy", sequence=20))
    assert newer.supersedes == ("e3",)
    assert newer.threshold == from_scratch(book, preset)
    away = book.edit(edit_record(asked(world, 5), "Cy", sequence=21, subject=subject(world, 5)))
    assert away.supersedes == ("e5",)
    assert away.threshold == from_scratch(book, preset) <= newer.threshold


def records(world: World) -> list[EditRecord]:
    """Edits with and without subjects, some in each other's way."""
    made: list[tuple[str, str, dict[str, Any]]] = []
    for number in range(4):
        name = {"subject": subject(world, number)}
        made += [
            (asked(world, number), ANN, name),
            (asked(world, number, 1), ANN if number % 2 else BO, name),
            (asked(world, number, 2), BO, {}),
            (asked(world, number + 10), BO, {"must_not_fire": (asked(world, number + 10, 3), "Hello")}),
            (asked(world, number, 3, "mayor"), ANN, {"subject": subject(world, number, "mayor")}),
        ]
    made += [
        (asked(world, 0), BO, {"subject": subject(world, 0), "must_not_fire": (asked(world, 0, 4),)}),
        (asked(world, 10, 3), BO, {}),
        (asked(world, 11), ANN, {"subject": "Nowhere"}),
    ]
    return [edit_record(prompt, target, sequence=at, **spec) for at, (prompt, target, spec) in enumerate(made, 1)]


def story(outcomes: Sequence[EditOutcome | HorenError]) -> list[Any]:
    return [
        it.code
        if isinstance(it, HorenError)
        else (it.kind, it.same_as, it.alias_of, it.supersedes, it.overlaps, it.threshold)
        for it in outcomes
    ]


def test_batches_change_nothing(demo: EditableModel, preset: CalibratedPreset, world: World) -> None:
    alone, together = (Book(demo, preset.keying, background=preset.background) for _ in range(2))
    expected, found = alone.make(records(world)), together.make(records(world), 7)
    assert story(found) == story(expected)
    assert len({it for it in story(expected) if isinstance(it, str)}) >= 2
    kinds = {it.kind for it in expected if isinstance(it, EditOutcome)}
    assert kinds >= {AdmissionKind.NEW, AdmissionKind.ALIAS, AdmissionKind.SUPERSEDE}
    assert alone.entries.keys() == together.entries.keys()
    for edit, entry in alone.entries.items():
        one, other = entry.artifact, together.entries[edit].artifact
        torch.testing.assert_close(other.keys, one.keys, atol=1e-6, rtol=0)
        assert other.manifest.contexts == one.manifest.contexts
        assert other.manifest.floor == pytest.approx(one.manifest.floor, abs=1e-6)
    assert any(entry.artifact.manifest.floor for entry in alone.entries.values())


def test_a_prompt_that_must_not_fire_has_a_floor(book: Book, world: World) -> None:
    other = asked(world, 0, 4)
    for record in (
        edit_record(asked(world, 0), ANN, must_not_fire=(other,)),
        edit_record(asked(world, 1), ANN, sequence=2, subject=subject(world, 1), must_not_fire=(asked(world, 1, 4),)),
    ):
        outcome = book.edit(record)
        assert outcome.artifact is not None
        floor = outcome.artifact.manifest.floor
        assert floor is not None
        assert LOWEST + FLOOR_MARGIN < floor < 1.0
    assert book.copy.floors.keys() == {1}


@pytest.fixture
def grace(demo: EditableModel) -> Book:
    return Book(demo, replace(preset_parameters("grace", "horen-demo"), radius=2.0))


def radii(book: Book) -> dict[str, float]:
    return effective_radii((str(book.copy.edit_id(number)), *ball) for number, ball in book.copy.balls.items())


def test_grace_makes_balls_that_meet_and_part(grace: Book, world: World) -> None:
    prompt = asked(world, 0)
    first = grace.edit(edit_record(prompt, "a"))
    assert (first.kind, first.threshold) == (AdmissionKind.NEW, None)
    assert first.artifact is not None
    manifest = first.artifact.manifest
    assert (manifest.radius, manifest.span, len(manifest.contexts)) == (2.0, 1, 1)
    key = first.artifact.keys
    assert torch.equal(key, lifted_key(key[:, :-2]))
    near = grace.edit(edit_record(f"{prompt}?", "a", sequence=2))
    assert (near.kind, near.alias_of) == (AdmissionKind.ALIAS, "e1")
    assert near.artifact is not None
    assert torch.equal(near.artifact.keys, key)
    assert torch.equal(near.artifact.values, first.artifact.values)
    other = grace.edit(edit_record(prompt.replace("founded", "has founded"), "b", sequence=3))
    assert other.kind is AdmissionKind.NEW
    assert set(other.overlaps) <= {"e1", "e2"}
    assert other.overlaps
    assert other.artifact is not None
    half = float((other.artifact.keys - key)[:, :-2].norm()) / 2
    assert radii(grace)["e3"] == radii(grace)["e2"] == pytest.approx(half, rel=1e-4)
    grace.copy.update(9, (), [EditId("e3")])
    assert radii(grace) == {"e1": 2.0, "e2": 2.0}


def test_grace_keys_one_prompt_an_edit(grace: Book, world: World) -> None:
    record = edit_record(asked(world, 0), "a", paraphrases=(asked(world, 0, 1),))
    assert code_of(grace, record) == "one_prompt_only"
    assert grace.copy.entries == 0
