"""Batched training: every edit gets what the plain loop gives it alone, whatever is trained beside it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from bench.plain_loop import PlainResult, plain_train
from horen_vllm.core.presets import MethodParameters, ValueMode, preset_parameters
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.editor.contexts import EditContext, build_contexts, target_ids
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.forward.batch import answer_batch, answer_logits
from horen_vllm.editor.forward.clean import clean_pass, passages
from horen_vllm.editor.forward.inject import inject_values
from horen_vllm.editor.forward.tail import Tail, TailBatch, tail_logits
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.training import rows
from horen_vllm.editor.training.adaptor import ValueLayout, value_layout
from horen_vllm.editor.training.noise import draw
from horen_vllm.editor.training.train import StopReason, TrainedValue, ValueTask, train_values
from horen_vllm.editor.training.verify import generate
from horen_vllm.registry.models import EditSpec

MIB = 2**20
SPECS = (
    EditSpec(prompt="Who leads Acme?", target="Ann", paraphrases=("Acme is led by",)),
    EditSpec(prompt="Zz top is", target="Q"),
    EditSpec(prompt="The capital of Atlantis, a city under the sea, is", target="Poseidonis"),
)
Prepared = tuple[tuple[EditContext, ...], tuple[int, ...], ValueLayout]


def prepare(editable: EditableModel, spec: EditSpec, parameters: MethodParameters) -> Prepared:
    ids = target_ids(editable, spec)
    labels = (*ids, editable.end_id) if parameters.train_end else ids
    return build_contexts(editable, spec, parameters), labels, value_layout(len(ids), parameters)


def train(
    editable: EditableModel,
    parameters: MethodParameters,
    specs: Sequence[EditSpec] = SPECS,
    memory: MemoryLimit | None = None,
) -> list[TrainedValue]:
    memory = memory or MemoryLimit(64 * MIB)
    tasks = []
    for spec in specs:
        contexts, labels, layout = prepare(editable, spec, parameters)
        rows = clean_pass(editable, passages(contexts, labels), parameters, memory)
        tasks.append(ValueTask(name=spec.prompt, layout=layout, rows=[row for row in rows if row is not None]))
    trained = train_values(editable, tasks, parameters, memory)
    return [value for value in trained if isinstance(value, TrainedValue)]


def plain(editable: EditableModel, parameters: MethodParameters, spec: EditSpec) -> PlainResult:
    contexts, labels, layout = prepare(editable, spec, parameters)
    return plain_train(editable, contexts, labels, layout, parameters, name=spec.prompt)


def assert_equal(batched: TrainedValue, alone: PlainResult) -> None:
    assert batched.steps == alone.steps
    assert batched.greedy_ok == alone.greedy_ok
    # Learning rates are relative to the model's activations, so are values.
    size = float(alone.values.abs().max())
    torch.testing.assert_close(batched.values / size, alone.values / size, atol=1e-4, rtol=1e-4)
    assert batched.loss == pytest.approx(min(alone.losses), abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gpt-oss"])
def test_every_architecture_trains_as_the_plain_loop(
    model_folder: Callable[[str], Path], parameters: MethodParameters, kind: str
) -> None:
    # In double precision: these models' tiny gradients would be rounding, which Adam blows up to full steps.
    editable = load_editable_model(str(model_folder(kind)), dtype=torch.float64)
    # Grouped matrix products of experts have no double precision.
    editable.model.set_experts_implementation("eager")
    few = replace(parameters, max_steps=6)
    for batched, spec in zip(train(editable, few), SPECS, strict=True):
        assert_equal(batched, plain(editable, few, spec))


@pytest.fixture(scope="module")
def demo() -> EditableModel:
    """A trained model, in double precision: Adam blows up rounding wherever a gradient is nearly zero."""
    return load_editable_model(str(demo_model_dir()), dtype=torch.float64)


@pytest.fixture
def trained_parameters() -> MethodParameters:
    return replace(preset_parameters("cosine", "demo", threshold=0.9), noise=0.0)


FACTS = (
    EditSpec(prompt="Who is the chief executive of Acme?", target="Ann Lee", paraphrases=("Acme is led by",)),
    EditSpec(prompt="What is the capital of Atlantis?", target="Poseidonis"),
    EditSpec(prompt="The river through Oz is called", target="Emerald"),
)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"train_end": False},
        {"max_value_rows": 2},
        {"rank": 4, "max_steps": 12},
        {"value_mode": ValueMode.ANSWER, "max_steps": 12},
        {"value_mode": ValueMode.LAST, "max_steps": 12, "patience": 2},
    ],
)
def test_a_run_to_its_stop_equals_the_plain_loop(
    demo: EditableModel, trained_parameters: MethodParameters, change: dict[str, Any]
) -> None:
    parameters = replace(trained_parameters, **change)
    for batched, spec in zip(train(demo, parameters, FACTS), FACTS, strict=True):
        assert_equal(batched, plain(demo, parameters, spec))


def test_noise_is_what_the_plain_loop_is_disturbed_by(
    demo: EditableModel, trained_parameters: MethodParameters
) -> None:
    parameters = replace(trained_parameters, noise=0.75, max_steps=8, stop_loss=None, keep_last=True)
    memory = MemoryLimit(64 * MIB)
    for batched, spec in zip(train(demo, parameters, FACTS), FACTS, strict=True):
        contexts, labels, layout = prepare(demo, spec, parameters)
        assert len(contexts) % 2 == 0
        kept = [row for row in clean_pass(demo, passages(contexts, labels), parameters, memory) if row]
        size = torch.cat([row.residual + row.site_output for row in kept]).square().mean(dim=0).sqrt()
        noise = [[draw(step, pair, len(labels), demo.d_out) * size * 0.75 for pair in range(2)] for step in range(9)]
        # The first look is without noise.
        noise[0] = [torch.zeros_like(one) for one in noise[0]]
        alone = plain_train(
            demo,
            contexts,
            labels,
            layout,
            parameters,
            disturb=lambda step, number, noise=noise: noise[step][number // 2] * (-1) ** number,  # type: ignore[misc]
        )
        torch.testing.assert_close(batched.values, alone.values, atol=1e-4, rtol=1e-4)
        # What is reported is measured without noise.
        assert batched.loss == pytest.approx(loss_of(demo, contexts, labels, layout, batched), abs=1e-4)


def loss_of(
    editable: EditableModel,
    contexts: Sequence[EditContext],
    labels: Sequence[int],
    layout: ValueLayout,
    trained: TrainedValue,
) -> float:
    """Return the mean loss, context by context, through the whole model."""
    losses = []
    for context in contexts:
        batch = answer_batch([context.prompt_ids], [labels[:-1]], editable.device)
        with torch.no_grad(), inject_values(editable, batch, trained.values, layout):
            logits = answer_logits(editable, batch)[0]
        losses.append(float(cross_entropy(logits, torch.tensor(labels))))
    return sum(losses) / len(losses)


def test_noise_draws_do_not_depend_on_what_is_padded() -> None:
    assert torch.equal(draw(3, 1, 9, 40)[:4], draw(3, 1, 4, 40))
    assert not torch.equal(draw(3, 1, 4, 40), draw(4, 1, 4, 40))
    assert not torch.equal(draw(3, 1, 4, 40), draw(3, 0, 4, 40))


def test_one_context_is_trained_on_both_sides(demo: EditableModel, trained_parameters: MethodParameters) -> None:
    parameters = replace(trained_parameters, noise=0.75, chat=False)
    [spec] = [replace(FACTS[0], paraphrases=())]
    [trained] = train(demo, parameters, [spec])
    assert trained.greedy_ok
    assert trained.stop_reason is StopReason.CONVERGED


@pytest.mark.parametrize("preset", ["horen-paper", "horen-reference"])
def test_published_presets_train_as_published(demo: EditableModel, preset: str) -> None:
    parameters = replace(preset_parameters(preset, "demo", threshold=0.9), max_steps=10)
    for batched, spec in zip(train(demo, parameters, FACTS), FACTS, strict=True):
        alone = plain(demo, parameters, spec)
        torch.testing.assert_close(batched.values, alone.values, atol=1e-4, rtol=1e-4)
        assert batched.steps == alone.steps
        assert batched.loss == pytest.approx(alone.losses[-1], abs=1e-4)


@pytest.mark.parametrize("noise", [0.0, 0.75])
def test_results_do_not_depend_on_the_batch(
    demo: EditableModel, trained_parameters: MethodParameters, noise: float
) -> None:
    parameters = replace(trained_parameters, noise=noise)
    together = train(demo, parameters, FACTS)
    cramped = train(demo, parameters, FACTS, MemoryLimit(1))
    for number, fact in enumerate(FACTS):
        [alone] = train(demo, parameters, [fact])
        for other in (together[number], cramped[number]):
            assert (other.steps, other.stop_reason) == (alone.steps, alone.stop_reason)
            torch.testing.assert_close(other.values, alone.values, atol=1e-4, rtol=1e-4)


def test_values_reach_the_target_and_nothing_else_moves(editable: EditableModel, parameters: MethodParameters) -> None:
    before = {name: tensor.clone() for name, tensor in editable.model.state_dict().items()}
    for spec, trained in zip(SPECS, train(editable, parameters), strict=True):
        contexts, labels, layout = prepare(editable, spec, parameters)
        assert (trained.stop_reason, trained.greedy_ok) == (StopReason.CONVERGED, True)
        assert trained.values.shape == (layout.rows, editable.d_out)
        for context in contexts:
            assert generate(editable, context, trained.values, layout, len(labels)) == labels
    assert all(torch.equal(tensor, before[name]) for name, tensor in editable.model.state_dict().items())
    assert all(parameter.grad is None for parameter in editable.model.parameters())


def test_one_vector_for_several_positions(editable: EditableModel, parameters: MethodParameters) -> None:
    chunked = replace(parameters, max_value_rows=3)
    [trained] = train(editable, chunked, [SPECS[1]])
    assert trained.values.shape[0] == 3
    [long] = train(editable, replace(chunked, max_steps=1), [SPECS[2]])
    assert long.values.shape[0] == 3
    [answer] = train(editable, replace(parameters, value_mode=ValueMode.ANSWER, max_steps=1), [SPECS[2]])
    assert answer.values.shape[0] == 1


def test_training_is_deterministic(editable: EditableModel, parameters: MethodParameters) -> None:
    for first, second in zip(train(editable, parameters), train(editable, parameters), strict=True):
        assert torch.equal(first.values.view(torch.int32), second.values.view(torch.int32))
        assert (first.loss, first.steps) == (second.loss, second.steps)


def test_stop_rules(editable: EditableModel, parameters: MethodParameters) -> None:
    spec = SPECS[:1]
    [all_steps] = train(editable, replace(parameters, stop_loss=None, max_steps=30), spec)
    assert (all_steps.steps, all_steps.stop_reason) == (30, StopReason.MAX_STEPS)
    # Steps far too large to gain from: the first iterate stays the best.
    wild = replace(parameters, learning_rate=1e9, scale_learning_rate=False, patience=3, stop_when_greedy=False)
    [patient] = train(editable, wild, spec)
    assert patient.stop_reason is StopReason.PATIENCE
    assert patient.steps < 200
    [last] = train(editable, replace(wild, keep_last=True), spec)
    assert not torch.equal(last.values, patient.values)
    early = replace(parameters, stop_loss=1e3, stop_when_greedy=False)
    assert train(editable, early, spec)[0].steps == 0
    assert train(editable, replace(early, stop_when_greedy=True), spec)[0].greedy_ok


def test_edits_stop_on_their_own(editable: EditableModel, parameters: MethodParameters) -> None:
    steps: list[tuple[int, int]] = []
    memory = MemoryLimit(64 * MIB)
    tasks = [
        ValueTask(
            spec.prompt,
            layout,
            [row for row in clean_pass(editable, passages(contexts, labels), parameters, memory) if row],
        )
        for spec in SPECS
        for contexts, labels, layout in [prepare(editable, spec, parameters)]
    ]
    trained = train_values(editable, tasks, parameters, memory, lambda step, left: steps.append((step, left)))
    ends = sorted(value.steps for value in trained if isinstance(value, TrainedValue))
    assert ends[0] < ends[-1]
    assert [left for _, left in steps] == [sum(end > step for end in ends) for step in range(ends[-1])]


def test_an_edit_that_does_not_fit_fails_alone(
    editable: EditableModel, parameters: MethodParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cramped(tail: Tail, batch: TailBatch, written: torch.Tensor) -> torch.Tensor:
        if batch.labels.shape[1] > 6 or len(batch.labels) > 2:
            raise torch.OutOfMemoryError
        return tail_logits(tail, batch, written)

    expected = train(editable, parameters, SPECS[:2])
    monkeypatch.setattr(rows, "tail_logits", cramped)
    memory = MemoryLimit(64 * MIB)
    tasks = []
    for spec in SPECS:
        contexts, labels, layout = prepare(editable, spec, parameters)
        kept = clean_pass(editable, passages(contexts, labels), parameters, memory)
        tasks.append(ValueTask(spec.prompt, layout, [row for row in kept if row is not None]))
    found = train_values(editable, tasks, parameters, memory)
    assert isinstance(found[2], EditFailed)
    assert found[2].code == "out_of_memory"
    for one, other in zip(expected, found, strict=False):
        assert isinstance(other, TrainedValue)
        torch.testing.assert_close(one.values, other.values, atol=1e-4, rtol=1e-3)


def test_trains_in_inference_surroundings(editable: EditableModel, parameters: MethodParameters) -> None:
    with torch.no_grad():
        assert all(trained.greedy_ok for trained in train(editable, parameters))


def test_half_precision_model_gives_float32_values(
    model_folder: Callable[[str], Path], parameters: MethodParameters
) -> None:
    editable = load_editable_model(str(model_folder("llama")), dtype=torch.bfloat16)
    for trained in train(editable, parameters):
        assert trained.values.dtype == torch.float32
        assert trained.greedy_ok
