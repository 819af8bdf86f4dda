"""Hooks on the edit site: queries depend on their prompt alone, values reach answer positions alone."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.contexts import EditContext, PromptForm
from horen_vllm.editor.forward.batch import answer_batch, answer_logits
from horen_vllm.editor.forward.capture import captured_inputs, captured_outputs
from horen_vllm.editor.forward.clean import queries
from horen_vllm.editor.forward.inject import inject_values
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.editor.training.adaptor import ValueLayout

PROMPTS = [(0, 10, 11, 12, 13), (0, 20, 21), (0, 30, 31, 32, 33, 34, 35, 36)]
CONTEXTS = [EditContext(PromptForm.PLAIN, "", prompt, (0, len(prompt))) for prompt in PROMPTS]
ANSWERS = [(40, 41)] * 3


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32)


def test_query_is_the_unit_mean_of_the_window(editable: EditableModel, parameters: MethodParameters) -> None:
    with captured_inputs(editable.module) as captured:
        editable.model(input_ids=torch.tensor([PROMPTS[0]]))
    mean = captured[0][0, 2:].mean(dim=0)
    found = queries(editable, CONTEXTS[:1], Keying(parameters))
    torch.testing.assert_close(found[0], mean / mean.norm())
    assert found.dtype == torch.float32


def test_the_window_is_the_end_of_the_span(editable: EditableModel, parameters: MethodParameters) -> None:
    with captured_inputs(editable.module) as captured:
        editable.model(input_ids=torch.tensor([PROMPTS[2]]))
    mean = captured[0][0, 3:6].mean(dim=0)
    found = queries(editable, [replace(CONTEXTS[2], span=(1, 6))], Keying(parameters))
    torch.testing.assert_close(found[0], mean / mean.norm())


def test_queries_do_not_depend_on_their_neighbours(editable: EditableModel, parameters: MethodParameters) -> None:
    together = queries(editable, CONTEXTS, Keying(parameters))
    for row, context in enumerate(CONTEXTS):
        torch.testing.assert_close(
            queries(editable, [context], Keying(parameters))[0], together[row], atol=1e-6, rtol=0.0
        )
    assert queries(editable, [], Keying(parameters)).shape == (0, editable.d_in)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gpt-oss"])
def test_padding_does_not_change_logits(model_folder: Callable[[str], Path], kind: str) -> None:
    editable = load_editable_model(str(model_folder(kind)))
    together = answer_logits(editable, answer_batch(PROMPTS, ANSWERS, editable.device))
    assert together.shape[:2] == (3, 3)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        whole = editable.model(input_ids=torch.tensor([[*prompt, *answer]])).logits
        torch.testing.assert_close(together[row], whole[0, len(prompt) - 1 :], atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize(("span", "chunk"), [(2, 1), (2, 2), (1, 1), (3, 2)])
def test_values_reach_answer_positions_only(editable: EditableModel, span: int, chunk: int) -> None:
    batch = answer_batch(PROMPTS, ANSWERS, editable.device)
    values = torch.randn(math.ceil(span / chunk), editable.d_out)
    after = editable.model.get_submodule("model.layers.2")
    with captured_outputs(editable.module) as clean, captured_inputs(after) as clean_next:
        answer_logits(editable, batch)
    with (
        inject_values(editable, batch, values, ValueLayout(span, chunk, 0)),
        captured_outputs(editable.module) as edited,
        captured_inputs(after) as edited_next,
    ):
        answer_logits(editable, batch)
    written = (batch.offsets >= 0) & (batch.offsets < span)
    assert torch.equal(bits(edited[0][~written]), bits(clean[0][~written]))
    assert torch.equal(bits(edited_next[0][~written]), bits(clean_next[0][~written]))
    spread = values.repeat_interleave(chunk, dim=0)[batch.offsets[written]]
    assert torch.equal(edited[0][written], clean[0][written] + spread)


def test_hooks_come_off_after_an_error(editable: EditableModel) -> None:
    batch = answer_batch(PROMPTS, ANSWERS, editable.device)
    with (
        pytest.raises(KeyError),
        inject_values(editable, batch, torch.ones(1, editable.d_out), ValueLayout(1, 1, 0)),
    ):
        raise KeyError
    with pytest.raises(KeyError), captured_inputs(editable.module):
        raise KeyError
    assert not editable.module._forward_hooks
    assert not editable.module._forward_pre_hooks
