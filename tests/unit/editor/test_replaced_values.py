"""Values that stand in for the site's output (GRACE): trained as a plain loop over the whole model, and verified."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.editor.contexts import EditContext, build_contexts, target_ids
from horen_vllm.editor.forward.batch import answer_batch, answer_logits
from horen_vllm.editor.forward.clean import CleanRow, clean_pass, passages
from horen_vllm.editor.forward.inject import inject_values
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.training.adaptor import ValueLayout, start_value, value_layout
from horen_vllm.editor.training.train import StopReason, TrainedValue, ValueTask, train_values
from horen_vllm.editor.training.verify import check_values, generate
from horen_vllm.registry.models import EditSpec

MEMORY = MemoryLimit(64 * 2**20)
GRACE = MethodParameters(
    preset="grace",
    window_ratio=1e-6,
    threshold=0.0,
    radius=1.0,
    value_mode=ValueMode.REPLACE,
    learning_rate=1.0,
    scale_learning_rate=False,
    max_steps=100,
    stop_loss=None,
    stop_when_greedy=False,
    train_end=False,
    uniform_start=True,
    keep_last=True,
    chat=False,
)
FACTS = (
    EditSpec(prompt="Who is the chief executive of Acme?", target="Ann"),
    EditSpec(prompt="What is the capital of Atlantis?", target="a"),
    EditSpec(prompt="The river through Oz is called", target="Emerald"),
)


@pytest.fixture(scope="module")
def demo() -> EditableModel:
    """In double precision: Adam blows up rounding wherever a gradient is nearly zero."""
    return load_editable_model(str(demo_model_dir()), dtype=torch.float64)


def prepared(
    editable: EditableModel, spec: EditSpec, parameters: MethodParameters
) -> tuple[EditContext, tuple[int, ...], list[CleanRow]]:
    labels = target_ids(editable, spec)
    [context] = build_contexts(editable, spec, parameters)
    rows = clean_pass(editable, passages([context], labels), parameters, MEMORY)
    return context, labels, [row for row in rows if row is not None]


def train(editable: EditableModel, parameters: MethodParameters, specs: Sequence[EditSpec]) -> list[TrainedValue]:
    tasks = [
        ValueTask(spec.prompt, value_layout(len(labels), parameters), rows)
        for spec in specs
        for _, labels, rows in [prepared(editable, spec, parameters)]
    ]
    return [value for value in train_values(editable, tasks, parameters, MEMORY) if isinstance(value, TrainedValue)]


@contextmanager
def replaced(editable: EditableModel, position: int, vector: torch.Tensor) -> Iterator[None]:
    def write(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :position], vector.to(output.dtype)[None, None], output[:, position + 1 :]], dim=1)

    handle = editable.module.register_forward_hook(write)
    try:
        yield
    finally:
        handle.remove()


def whole_logits(
    editable: EditableModel, context: EditContext, labels: Sequence[int], vector: torch.Tensor
) -> torch.Tensor:
    """Return the logits that predict the labels, through the whole model."""
    tokens = torch.tensor([[*context.prompt_ids, *labels[:-1]]])
    position = len(context.prompt_ids) - 1
    with replaced(editable, position, vector):
        output: Any = editable.model(input_ids=tokens, use_cache=False)
    logits: torch.Tensor = output.logits[0, position:]
    return logits


def plain(editable: EditableModel, context: EditContext, labels: Sequence[int], start: torch.Tensor) -> torch.Tensor:
    """Train as GRACE does: Adam, a fixed number of steps through the whole model, the last iterate."""
    vector = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([vector], lr=1.0)
    for _ in range(100):
        optimiser.zero_grad()
        loss = F.cross_entropy(whole_logits(editable, context, labels, vector), torch.tensor(labels))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return vector.detach()


def test_a_value_has_one_vector_at_the_prompts_last_token() -> None:
    layout = value_layout(7, GRACE)
    assert (layout, layout.key, layout.rows) == (ValueLayout(1, 1, 0, replaces=True), (1, 1, 0), 1)
    assert not value_layout(7, replace(GRACE, value_mode=ValueMode.LAST)).replaces


def test_training_is_that_of_the_plain_loop(demo: EditableModel) -> None:
    for spec, trained in zip(FACTS, train(demo, GRACE, FACTS), strict=True):
        context, labels, _ = prepared(demo, spec, GRACE)
        [start] = start_value(value_layout(len(labels), GRACE), demo.d_out, 1.0, spec.prompt, GRACE)
        assert bool((start >= 0).all())
        alone = plain(demo, context, labels, start)
        torch.testing.assert_close(trained.values, alone[None], atol=1e-3, rtol=1e-3)
        with torch.no_grad():
            logits = whole_logits(demo, context, labels, trained.values[0])
        assert trained.loss == pytest.approx(float(F.cross_entropy(logits, torch.tensor(labels))), abs=1e-6)
        assert trained.greedy_ok == bool((logits.argmax(dim=-1) == torch.tensor(labels)).all())
        assert (trained.steps, trained.stop_reason) == (100, StopReason.MAX_STEPS)


def test_a_value_that_serves_gives_what_was_verified(demo: EditableModel) -> None:
    # One token: the demo model cannot be brought to a longer target from its prompt alone.
    spec = FACTS[1]
    [trained] = train(demo, GRACE, [spec])
    context, labels, rows = prepared(demo, spec, GRACE)
    layout = value_layout(len(labels), GRACE)
    checked = check_values(demo, rows, trained.values, layout, MEMORY)
    assert trained.greedy_ok
    assert checked.greedy_ok
    assert checked.loss == pytest.approx(trained.loss, abs=1e-9)
    assert generate(demo, context, trained.values, layout, len(labels)) == labels
    assert not check_values(demo, rows, torch.zeros(1, demo.d_out), layout, MEMORY).greedy_ok


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_output_at_the_prompts_last_token_is_the_vector_and_no_other_changes(dtype: torch.dtype) -> None:
    editable = load_editable_model(str(demo_model_dir()), dtype=dtype)
    batch = answer_batch([(5, 6, 7), (8, 9, 10, 11, 12)], [(20, 21)] * 2, editable.device)
    vector = torch.rand(1, editable.d_out)
    seen: list[torch.Tensor] = []
    following = editable.module.register_forward_hook(lambda _module, _args, output: seen.append(output))
    with torch.no_grad():
        answer_logits(editable, batch)
        following.remove()
        with inject_values(editable, batch, vector, ValueLayout(1, 1, 0, replaces=True)):
            # Registered later, so it sees what the value has made of the output.
            following = editable.module.register_forward_hook(lambda _module, _args, output: seen.append(output))
            answer_logits(editable, batch)
    following.remove()
    clean, edited = seen
    written = batch.offsets == 0
    assert torch.equal(edited[written], vector.to(dtype).expand(2, -1))
    assert torch.equal(edited[~written], clean[~written])
