"""Calibration: the fitted threshold fires on fresh prompts about as often as asked, and follows N."""

from dataclasses import replace

import pytest
import torch

from horen_vllm.core.match import KeyTable, route
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.calibrate import FittedThreshold, fit_threshold
from horen_vllm.editor.contexts import prompt_forms
from horen_vllm.editor.forward.clean import queries
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.errors import InvalidArgument


def prompts(seed: int, count: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)

    def word(length: int) -> str:
        return "".join(chr(97 + int(code)) for code in torch.randint(26, (length,), generator=generator))

    return [f"Who is the {word(4)} of {word(6)}?" for _ in range(count)]


def fit(
    editable: EditableModel, parameters: MethodParameters, *, num_keys: int, rate: float = 0.1, count: int = 160
) -> FittedThreshold:
    background = prompts(0, count)
    return fit_threshold(editable, background, parameters, num_keys=num_keys, false_fire_rate=rate, seed=0)


def vectors(editable: EditableModel, texts: list[str], parameters: MethodParameters) -> torch.Tensor:
    contexts = [context for text in texts for context in prompt_forms(editable, text, parameters)]
    return queries(editable, contexts, parameters)


@pytest.mark.parametrize("steps", [0, 1])
def test_fresh_prompts_fire_about_as_often_as_asked(
    editable: EditableModel, parameters: MethodParameters, steps: int
) -> None:
    refined = replace(parameters, steps=steps, gamma=0.1 * steps)
    fitted = fit(editable, refined, num_keys=40)
    assert fitted.rate <= 0.1
    assert fitted.n == 8 * 140 * 2
    fired = []
    for seed in (1, 2, 3):
        keys = vectors(editable, prompts(seed, 20), refined)
        table = KeyTable(keys, torch.arange(20).repeat_interleave(2), torch.arange(20))
        fresh = vectors(editable, prompts(seed + 10, 60), refined)
        decisions = route(fresh, table, replace(refined, threshold=fitted.threshold))
        fired += [decision.entry is not None for decision in decisions]
    assert 0.03 <= sum(fired) / len(fired) <= 0.2


def test_threshold_follows_the_number_of_keys(editable: EditableModel, parameters: MethodParameters) -> None:
    few, many = fit(editable, parameters, num_keys=4), fit(editable, parameters, num_keys=60)
    assert few.threshold < many.threshold < 0.9999


def test_fit_is_deterministic(editable: EditableModel, parameters: MethodParameters) -> None:
    assert fit(editable, parameters, num_keys=10) == fit(editable, parameters, num_keys=10)


def test_threshold_stays_below_an_entrys_own_score(editable: EditableModel, parameters: MethodParameters) -> None:
    # White space changes the text but hardly the query, so many best scores are nearly 1.
    twins = [text + end for text in prompts(0, 20) for end in ("", "?")]
    same = replace(parameters, window_ratio=1.0)
    fitted = fit_threshold(editable, twins, same, num_keys=40, false_fire_rate=0.05, seed=0)
    assert fitted.threshold < 0.9999


@pytest.mark.parametrize(
    ("num_keys", "rate", "code"),
    [(0, 0.1, "invalid_parameter"), (4, 0.0, "invalid_parameter"), (320, 0.1, "too_few_background_prompts")],
)
def test_refusals(editable: EditableModel, parameters: MethodParameters, num_keys: int, rate: float, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        fit(editable, parameters, num_keys=num_keys, rate=rate)
    assert caught.value.code == code


def test_repeated_prompts_count_once(editable: EditableModel, parameters: MethodParameters) -> None:
    with pytest.raises(InvalidArgument, match="1 distinct"):
        fit_threshold(editable, ["Who?", "who? "] * 50, parameters, num_keys=2, false_fire_rate=0.1, seed=0)
