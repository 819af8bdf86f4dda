"""Calibrated presets: everything that they name is there, and thresholds give the rates that were asked for."""

from dataclasses import replace

import pytest
import torch

from horen_vllm.artifacts.store import digest_of
from horen_vllm.core.presets import PRESETS, MethodParameters
from horen_vllm.editor.calibration.background import BackgroundPrompt, builtin_background
from horen_vllm.editor.calibration.calibrated import (
    Calibration,
    CalibrationSettings,
    calibrate_presets,
    calibrated_base,
    files_of,
    subject_threshold,
)
from horen_vllm.editor.calibration.samples import Sample, split
from horen_vllm.editor.codebook.arena import KeyArena
from horen_vllm.editor.codebook.false_fires import LOWEST, false_fires_of
from horen_vllm.editor.contexts import EditContext, PromptForm
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.errors import HorenError
from horen_vllm.spaces import decode_background, decode_space

PROMPTS = builtin_background()[:300]
SETTINGS = CalibrationSettings(false_fire_rate=0.02, seed=3)


@pytest.fixture(scope="module")
def calibration(editable: EditableModel) -> Calibration:
    return calibrate_presets(editable, "tiny", PROMPTS, SETTINGS)


def test_every_preset_is_made_and_survives_storage(calibration: Calibration) -> None:
    assert calibration.presets.keys() == set(PRESETS)
    for name, preset in calibration.presets.items():
        assert preset.parameters.preset == name
        assert MethodParameters.from_dict(preset.parameters.to_dict()) == preset.parameters


def test_the_held_out_prompts_have_no_part_in_the_fit(editable: EditableModel, calibration: Calibration) -> None:
    assert len(calibration.held_out) == 60
    assert split(PROMPTS, (0.4, 0.4, 0.2), 3)[2] == list(calibration.held_out)
    swapped = {prompt: BackgroundPrompt(f"something else {at}") for at, prompt in enumerate(calibration.held_out)}
    again = calibrate_presets(editable, "tiny", [swapped.get(it, it) for it in PROMPTS], SETTINGS)
    for name, preset in calibration.presets.items():
        assert again.presets[name].parameters == preset.parameters
        assert again.presets[name].files == preset.files


def test_files_are_what_the_parameters_name(editable: EditableModel, calibration: Calibration) -> None:
    files = files_of(iter(calibration.presets.values()))
    named = [
        digest for it in calibration.presets.values() for digest in (it.parameters.space, it.parameters.background)
    ]
    assert files.keys() == set(filter(None, named))
    assert all(digest_of(data) == digest for digest, data in files.items())
    for preset in calibration.presets.values():
        if preset.parameters.background is not None:
            assert preset.background is not None
            read = decode_background(files[preset.parameters.background], editable.fingerprint)
            assert torch.equal(read, preset.background)
            assert preset.background.shape[1] == preset.keying.width(editable.d_in)
    space = calibration.presets["calibrated"].keying.space
    assert space is not None
    stored = decode_space(files[str(calibration.presets["calibrated"].parameters.space)], editable.fingerprint)
    assert torch.equal(stored.matrix, space.matrix)


def test_published_thresholds_stay_and_others_follow(editable: EditableModel, calibration: Calibration) -> None:
    for name in ("horen-paper", "horen-reference", "cosine", "calibrated"):
        parameters = calibration.presets[name].parameters
        assert (parameters.threshold, parameters.false_fire_rate) == (LOWEST, 0.02)
    known = calibrate_presets(editable, "Qwen2.5-7B-Instruct", PROMPTS, SETTINGS)
    for name in ("horen-paper", "horen-reference"):
        parameters = known.presets[name].parameters
        assert (parameters.threshold, parameters.false_fire_rate, parameters.background) == (0.55, None, None)
    grace = calibration.presets["grace"].parameters
    assert (grace.radius, grace.background, grace.space) == (1.0, None, None)


def test_the_calibrated_preset_masks_subjects_in_a_fitted_space(calibration: Calibration) -> None:
    preset = calibration.presets["calibrated"]
    parameters = preset.parameters
    assert (parameters.anchors, parameters.mask_subject, parameters.chat) == (True, True, True)
    assert preset.keying.reads_words
    assert -1.0 < parameters.anchored_threshold < 1.0
    assert replace(
        parameters, space=None, background=None, false_fire_rate=None, threshold=0.5, anchored_threshold=0.0
    ) == calibrated_base("tiny")
    # Background queries are whitened on other prompts of the same kind: they spread.
    assert preset.background is not None
    assert float((preset.background @ preset.background.T).mean()) < 0.3


def test_a_followed_threshold_lets_no_more_fire(calibration: Calibration) -> None:
    for name in ("cosine", "calibrated"):
        preset = calibration.presets[name]
        assert preset.background is not None
        arena = KeyArena(preset.background.shape[1])
        fires = false_fires_of(preset.background, preset.parameters, arena)
        fires.hold(arena.hold(preset.background[:40], 1))
        others = preset.background[40:] @ preset.background[:40].T
        # Its keys are background queries themselves, which take 40 of the places.
        assert int((others.amax(dim=1) > fires.threshold()).sum()) <= 0.02 * len(preset.background)


def sample(seed: int, count: int, width: int = 16) -> Sample:
    """Two forms of each text, without words."""
    drawn = torch.randn(2 * count, width, generator=torch.Generator().manual_seed(seed))
    context = EditContext(PromptForm.PLAIN, "", (1,), (0, 1))
    return Sample((context,) * 2 * count, torch.arange(count).repeat_interleave(2), drawn)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_a_subject_threshold_gives_the_rate_that_was_asked_for(rate: float) -> None:
    keying, entries, asked = Keying(calibrated_base("tiny")), sample(0, 1000), sample(1, 1000)
    limit = subject_threshold(entries, asked, keying, rate)
    keys, queries = entries.queries(keying).view(1000, 2, 16), asked.queries(keying).view(1000, 2, 16)
    best = torch.einsum("nqw,nkw->nqk", queries, keys).amax(dim=2)
    assert float((best > limit).float().mean()) == pytest.approx(rate, abs=2e-3)


def test_without_questions_every_prompt_of_the_subject_counts() -> None:
    assert subject_threshold(sample(0, 0), sample(0, 0), Keying(calibrated_base("tiny")), 0.1) == 0.0


def test_a_model_that_takes_no_prompt_is_refused(editable: EditableModel) -> None:
    long = [BackgroundPrompt(f"{number} " + "x" * 400) for number in range(300)]
    with pytest.raises(HorenError) as caught:
        calibrate_presets(editable, "tiny", long, SETTINGS)
    assert caught.value.code == "unsupported_tokenizer"
