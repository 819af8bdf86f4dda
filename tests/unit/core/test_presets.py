"""Presets: which can be built from a model's name, and what GRACE's is."""

import pytest

from horen_vllm.core.presets import (
    BUILT_IN,
    CALIBRATED,
    PRESETS,
    MethodParameters,
    SpanMode,
    ValueMode,
    preset_parameters,
)
from horen_vllm.errors import InvalidArgument


@pytest.mark.parametrize("preset", BUILT_IN)
def test_a_built_in_preset_bears_its_name_and_survives_storage(preset: str) -> None:
    built = preset_parameters(preset, "my-own-model", 0.7)
    assert (built.preset, built.threshold, built.space, built.background) == (preset, 0.7, None, None)
    assert MethodParameters.from_dict(built.to_dict()) == built


@pytest.mark.parametrize("threshold", [None, 0.9])
def test_the_calibrated_preset_needs_a_calibration(threshold: float | None) -> None:
    assert CALIBRATED in PRESETS
    with pytest.raises(InvalidArgument, match="run `horen calibrate`") as caught:
        preset_parameters(CALIBRATED, "my-own-model", threshold)
    assert caught.value.code == "calibration_required"


def test_grace_asks_for_no_threshold() -> None:
    grace = preset_parameters("grace", "my-own-model")
    assert (grace.threshold, grace.radius, grace.value_mode) == (0.0, 1.0, ValueMode.REPLACE)
    assert grace == preset_parameters("grace", "meta-llama/Llama-3.1-8B-Instruct")


def test_grace_looks_at_the_last_token_of_the_whole_prompt_and_trains_as_published() -> None:
    grace = preset_parameters("grace", "my-own-model")
    assert (grace.window_ratio, grace.span, grace.steps, grace.chat) == (1e-6, SpanMode.PROMPT, 0, False)
    assert (grace.learning_rate, grace.scale_learning_rate, grace.max_steps) == (1.0, False, 100)
    assert (grace.stop_loss, grace.stop_when_greedy, grace.train_end) == (None, False, False)
    assert (grace.uniform_start, grace.keep_last, grace.noise) == (True, True, 0.0)
