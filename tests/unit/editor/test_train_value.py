"""Training: targets are reached, nothing but the value moves, runs repeat bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.editor.contexts import EditContext, build_contexts, target_ids
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.model import EditableModel, load_editable_model
from horen_vllm.editor.train import StopReason, TrainedValue, train_value, value_loss
from horen_vllm.editor.verify import check_target, generate, reaches_target
from horen_vllm.registry.models import EditSpec

SPEC = EditSpec(prompt="Who leads Acme?", target="Ann", paraphrases=("Acme is led by",))


def train(
    editable: EditableModel, parameters: MethodParameters, spec: EditSpec = SPEC
) -> tuple[tuple[EditContext, ...], tuple[int, ...], TrainedValue]:
    contexts, ids = build_contexts(editable, spec, parameters), target_ids(editable, spec)
    return contexts, ids, train_value(editable, contexts, ids, parameters)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gpt-oss"])
def test_sequence_reaches_the_target_in_every_context(
    model_folder: Callable[[str], Path], parameters: MethodParameters, kind: str
) -> None:
    editable = load_editable_model(str(model_folder(kind)))
    before = {name: tensor.clone() for name, tensor in editable.model.state_dict().items()}
    contexts, ids, trained = train(editable, parameters)
    assert trained.stop_reason is StopReason.CONVERGED
    assert trained.values.shape == (len(ids) + 1, editable.d_out)
    check_target(editable, contexts, ids, trained, parameters)
    assert generate(editable, contexts, ids, trained.values, parameters) == [(*ids, editable.end_id)] * 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in editable.model.state_dict().items())
    assert all(parameter.grad is None for parameter in editable.model.parameters())


def test_answer_writes_one_vector_at_every_position(editable: EditableModel, parameters: MethodParameters) -> None:
    parameters = replace(parameters, value_mode=ValueMode.ANSWER, train_end=False)
    spec = EditSpec(prompt="Who leads Acme? ", target="XXX")
    contexts, ids, trained = train(editable, parameters, spec)
    assert trained.values.shape == (1, editable.d_out)
    assert reaches_target(editable, contexts, ids, trained.values, parameters)


def test_last_that_cannot_reach_the_target_says_so(editable: EditableModel, parameters: MethodParameters) -> None:
    parameters = replace(parameters, value_mode=ValueMode.LAST, max_steps=5)
    contexts, ids, trained = train(editable, parameters)
    assert (trained.steps, trained.stop_reason, trained.greedy_ok) == (5, StopReason.MAX_STEPS, False)
    with pytest.raises(EditFailed, match=r"after 5 steps \(loss \d+\.\d+\).*instead of ' Ann'") as caught:
        check_target(editable, contexts, ids, trained, parameters)
    assert caught.value.code == "target_not_reached"


def test_training_is_deterministic(editable: EditableModel, parameters: MethodParameters) -> None:
    first, second = (train(editable, parameters)[2] for _ in range(2))
    assert torch.equal(first.values.view(torch.int32), second.values.view(torch.int32))
    assert (first.loss, first.steps) == (second.loss, second.steps)


def test_loss_of_a_context_does_not_depend_on_the_batch(editable: EditableModel, parameters: MethodParameters) -> None:
    contexts, ids, trained = train(editable, parameters)
    alone = [value_loss(editable, [context], ids, trained.values, parameters) for context in contexts]
    together = value_loss(editable, contexts, ids, trained.values, parameters)
    assert sum(alone) / len(alone) == pytest.approx(together, abs=1e-5)
    assert together == pytest.approx(trained.loss, abs=1e-6)


def test_stop_rules(editable: EditableModel, parameters: MethodParameters) -> None:
    all_steps = train(editable, replace(parameters, stop_loss=None, max_steps=30))[2]
    assert (all_steps.steps, all_steps.stop_reason) == (30, StopReason.MAX_STEPS)
    # Steps far too large to gain from: the first iterate stays the best.
    wild = replace(parameters, learning_rate=1e9, scale_learning_rate=False, patience=3, stop_when_greedy=False)
    patient = train(editable, wild)[2]
    assert patient.stop_reason is StopReason.PATIENCE
    assert patient.steps < 200
    early = replace(parameters, stop_loss=1e3, stop_when_greedy=False)
    assert train(editable, early)[2].steps == 0
    assert train(editable, replace(early, stop_when_greedy=True))[2].greedy_ok


def test_without_end_only_the_target_is_trained(editable: EditableModel, parameters: MethodParameters) -> None:
    parameters = replace(parameters, train_end=False)
    contexts, ids, trained = train(editable, parameters)
    assert trained.values.shape[0] == len(ids)
    assert generate(editable, contexts, ids, trained.values, parameters) == [ids] * 4


def test_trains_in_inference_surroundings(editable: EditableModel, parameters: MethodParameters) -> None:
    with torch.no_grad():
        assert train(editable, parameters)[2].greedy_ok


def test_half_precision_model_gives_float32_values(
    model_folder: Callable[[str], Path], parameters: MethodParameters
) -> None:
    editable = load_editable_model(str(model_folder("llama")), dtype=torch.bfloat16)
    trained = train(editable, parameters)[2]
    assert trained.values.dtype == torch.float32
    assert trained.greedy_ok
