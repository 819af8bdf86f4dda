"""Comparing presets: the numbers on made-up features, the recommendation, and all of it on a tiny model."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from horen_vllm.core.presets import MethodParameters, preset_parameters
from horen_vllm.editor.calibration.arms import OpenArm
from horen_vllm.editor.calibration.calibrated import (
    CalibratedPreset,
    CalibrationSettings,
    calibrate_presets,
    subject_threshold,
)
from horen_vllm.editor.calibration.compare import ARMS, compare
from horen_vllm.editor.calibration.grace_arm import GraceArm
from horen_vllm.editor.calibration.measures import Routes, Share, curve, pooled, recall_at, share_of, wilson
from horen_vllm.editor.calibration.plot import write_plot
from horen_vllm.editor.calibration.prompt import BackgroundPrompt
from horen_vllm.editor.calibration.questions import questions
from horen_vllm.editor.calibration.results import PresetResult, recommended
from horen_vllm.editor.calibration.samples import Sample
from horen_vllm.editor.calibration.transplant import fact_of, relation_of, transplanted
from horen_vllm.editor.contexts import EditContext, PromptForm
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel

from .backgrounds import WORDINGS, facts

CONTEXT = EditContext(PromptForm.PLAIN, "", (1,), (0, 1))


def sample(means: torch.Tensor, texts: torch.Tensor | None = None) -> Sample:
    return Sample((CONTEXT,) * len(means), torch.arange(len(means)) if texts is None else texts, means)


def preset(parameters: MethodParameters, background: torch.Tensor | None = None) -> CalibratedPreset:
    return CalibratedPreset(keying=Keying(parameters), background=background)


def following(background: torch.Tensor, rate: float, steps: int = 0) -> CalibratedPreset:
    fixed = preset_parameters("cosine", "", 0.0)
    refined = replace(fixed, steps=steps, gamma=0.1 * steps, background="ab", false_fire_rate=rate)
    return preset(refined, F.normalize(background, dim=1))


def routes(margins: torch.Tensor, entries: torch.Tensor, texts: torch.Tensor | None = None) -> Routes:
    nothing = torch.full_like(margins, -torch.inf)
    texts = torch.arange(len(margins)) if texts is None else texts
    return Routes(texts, margins, entries, nothing, torch.full_like(entries, -1))


@pytest.mark.parametrize(
    ("share", "n", "low", "high"), [(0.0, 10, 0.0, 0.2775), (0.5, 100, 0.4038, 0.5962), (1.0, 20, 0.8389, 1.0)]
)
def test_wilson(share: float, n: int, low: float, high: float) -> None:
    assert wilson(share, n) == pytest.approx((low, high), abs=1e-4)


def test_a_prompt_counts_once_in_however_many_forms() -> None:
    found = share_of(torch.tensor([True, True, False, False]), torch.tensor([0, 0, 1, 1]))
    assert found == Share(0.5, *wilson(0.5, 2), 2)
    assert share_of(torch.empty(0, dtype=torch.bool), torch.empty(0)) is None
    assert pooled(found, None, Share(0.0, 0.0, 0.3, 6)) == Share(0.125, *wilson(0.125, 8), 8)


def test_an_anchored_entry_goes_before_an_open_one() -> None:
    texts = torch.tensor([0, 1, 2, 3])
    open_margin, hit_margin = torch.tensor([0.5, 0.5, 0.5, -0.1]), torch.tensor([0.1, 0.1, -0.1, -0.2])
    asked = Routes(texts, open_margin, texts, hit_margin, torch.tensor([0, 3, 3, 3]))
    assert asked.right().tolist() == [True, False, True, False]
    assert asked.right(0.2).tolist() == [True, True, True, False]
    assert asked.right(-1.0).tolist() == [True, False, False, True]
    assert asked.fires().tolist() == [True, True, True, False]


def test_thresholds_move_until_as_many_fire_as_asked() -> None:
    generator = torch.Generator().manual_seed(1)
    near = routes(torch.randn(200, generator=generator), torch.zeros(200, dtype=torch.int64))
    asked = routes(torch.randn(300, generator=generator) + 1.0, torch.arange(300))
    moved = near.open_margin.sort(descending=True).values[10]
    found = recall_at(0.05, asked, near)
    assert found is not None
    assert found.share == pytest.approx(float((asked.open_margin > moved).double().mean()))
    points = curve(asked, near)
    assert [point.rate for point in points] == sorted(point.rate for point in points)
    assert [point.recall for point in points] == sorted(point.recall for point in points)
    assert points[0].rate == 0.0
    assert points[-1].rate == pytest.approx(0.5)
    assert all(point.low <= point.recall <= point.high for point in points)
    nobody = routes(torch.empty(0), torch.empty(0, dtype=torch.int64))
    assert recall_at(0.05, asked, nobody) is None
    assert curve(asked, nobody) == ()


@pytest.mark.parametrize("steps", [0, 1])
def test_a_threshold_follows_the_keys_and_right_entries_fire(steps: int) -> None:
    generator = torch.Generator().manual_seed(2)
    background, keys = torch.randn(400, 16, generator=generator), torch.randn(30, 16, generator=generator)
    few = OpenArm(following(background, 0.02, steps), sample(keys[:3]))
    arm = OpenArm(following(background, 0.02, steps), sample(keys))
    assert few.threshold < arm.threshold < 1.0
    assert OpenArm(following(background, 0.2, steps), sample(keys)).threshold < arm.threshold
    fires = arm.routes(sample(background)).fires()
    assert 0.01 < float(fires.double().mean()) <= 0.02
    assert arm.routes(sample(keys + 0.01)).right().all()
    fixed = OpenArm(preset(preset_parameters("cosine", "", 0.9)), sample(keys))
    assert fixed.threshold == 0.9


def test_grace_halves_radii_that_meet() -> None:
    arm = GraceArm(preset(preset_parameters("grace", "")), sample(torch.tensor([[0.0, 0.0], [0.6, 0.0], [9.0, 9.0]])))
    asked = torch.tensor([[0.2, 0.0], [0.5, 0.0], [0.0, 0.4], [9.0, 9.9], [9.0, 7.9]])
    found = arm.routes(sample(asked, torch.tensor([0, 1, 0, 2, 2])))
    assert found.right().tolist() == [True, True, False, True, False]
    assert found.right(-0.5).tolist() == [True, True, True, True, True]
    assert arm.threshold is None


def test_c_of_subjects_lets_as_many_fire_as_asked() -> None:
    generator = torch.Generator().manual_seed(3)
    keying = Keying(preset_parameters("cosine", "", 0.5))
    texts = torch.arange(500).repeat_interleave(2)
    entries, asked = torch.randn(1000, 8, generator=generator), torch.randn(1000, 8, generator=generator)
    threshold = subject_threshold(sample(entries, texts), sample(asked, texts), keying, 0.1)
    scores = (F.normalize(asked, dim=1).view(500, 2, 8) @ F.normalize(entries, dim=1).view(500, 2, 8).mT).amax(2)
    assert float((scores > threshold).double().mean()) == pytest.approx(0.1, abs=0.002)
    nobody = sample(torch.empty(0, 8))
    assert subject_threshold(nobody, nobody, keying, 0.1) == 0.0


def result(name: str, recall: float, near: float = 0.01, *, subjects: bool = False) -> PresetResult:
    shares = [Share(share, *wilson(share, 300), 300) for share in (recall, near)]
    return PresetResult(
        preset=name,
        subjects=subjects,
        threshold=0.5,
        recall=shares[0],
        near=shares[1],
        unrelated=None,
        same_subject=None,
        recall_at_1=None,
        recall_at_5=None,
        near_curve=(),
        same_subject_curve=(),
    )


def test_recommendation() -> None:
    cosine, paper, ours = result("cosine", 0.4), result("horen-paper", 0.42), result("calibrated", 0.7)
    assert recommended([ours, cosine, paper], 0.01) == "calibrated"
    assert recommended([paper, cosine], 0.01) == "cosine"
    assert recommended([cosine, result("horen-paper", 0.6), result("calibrated", 0.62)], 0.01) == "horen-paper"
    assert recommended([cosine, result("calibrated", 0.7, 0.05)], 0.01) == "cosine"
    assert recommended([result("cosine", 0.9, 0.09), result("calibrated", 0.7, 0.05)], 0.01) == "calibrated"
    assert recommended([cosine, result("calibrated", 0.1), result("calibrated", 1.0, subjects=True)], 0.01) == "cosine"


def test_questions_ask_for_other_facts_than_the_entries() -> None:
    prompts = facts(400)
    asked = questions(prompts, 5)
    assert asked == questions(prompts, 5) != questions(prompts, 6)
    own = {fact_of(entry) for entry in asked.entries}
    by_text = {prompt.prompt: prompt for prompt in prompts}
    relations = {relation_of(entry) for entry in asked.entries}
    assert 0 < len(relations) < len(WORDINGS)
    assert len(asked.rephrases) == len(asked.entries)
    assert all(text in entry.rephrases for text, entry in zip(asked.rephrases, asked.entries, strict=True))
    for text in asked.near:
        assert relation_of(by_text[text]) in relations
        assert fact_of(by_text[text]) not in own
    assert all(relation_of(by_text[text]) not in relations for text in asked.unrelated)
    subjects = [entry.subject or "" for entry in asked.entries]
    assert len(asked.same_subject) == len(asked.entries)
    assert all(name in text for name, text in zip(subjects, asked.same_subject, strict=True))
    assert not {entry.prompt for entry in asked.entries} & set(asked.same_subject)


def test_a_relation_is_the_prompt_without_its_subject_where_none_is_named() -> None:
    paris, rome = (BackgroundPrompt(f"Mayor of {name}?", name) for name in ("Paris", "Rome"))
    assert relation_of(paris) == relation_of(rome) == "mayor of {}?"
    assert relation_of(BackgroundPrompt("Hello")) is None
    river = BackgroundPrompt("Which river is in Oslo?", "Oslo")
    generator = random.Random(0)
    assert transplanted([paris], [rome, river], (), generator) == ["Which river is in Paris?"]
    assert transplanted([paris], [rome], (), generator) == [None]
    assert transplanted([paris], [river], {("paris", relation_of(river) or "")}, generator) == [None]


def test_all_presets_on_a_model(editable: EditableModel, tmp_path: Path) -> None:
    settings = CalibrationSettings(false_fire_rate=0.05)
    stages: list[str] = []
    calibration = calibrate_presets(editable, "tiny", facts(400), settings, progress=stages.append)
    comparison = compare(editable, calibration, settings, progress=stages.append)
    assert comparison is not None
    assert len(stages) == 5 + len(ARMS)
    assert [(it.preset, it.subjects) for it in comparison.results] == list(ARMS)
    assert comparison.recommended in calibration.presets
    assert all(it.recall.n == comparison.entries for it in comparison.results)
    anchored = next(it for it in comparison.results if it.subjects)
    assert anchored.near is not None
    assert anchored.near.share == 0.0
    assert anchored.same_subject is not None
    assert anchored.same_subject.low <= settings.subject_rate
    picture, numbers = write_plot(comparison, "tiny", tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(numbers.read_text()) == json.loads(json.dumps(comparison.to_dict()))
    assert "near_curve" not in comparison.to_dict(curves=False)["results"][0]
    bare = [replace(prompt, rephrases=()) for prompt in calibration.held_out]
    assert compare(editable, replace(calibration, held_out=tuple(bare)), settings) is None
