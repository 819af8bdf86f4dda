"""The layers after the site, run on answer positions only, give what the whole model gives there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from horen_vllm.core.presets import preset_parameters
from horen_vllm.editor.forward.batch import answer_batch
from horen_vllm.editor.forward.clean import Passage, clean_pass, stack_clean
from horen_vllm.editor.forward.inject import inject_values
from horen_vllm.editor.forward.tail import tail_logits, tail_of
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.training.adaptor import ValueLayout, added
from tests.unit.editor.conftest import save_tiny

WINDOW = 8
"""Tokens; shorter than most of the prompts."""
PARAMETERS = preset_parameters("cosine", "tiny", threshold=0.9)
# One token, and lengths below, at and above the window; answers of mixed lengths, two of them longer than it.
SHAPES = ((1, 3), (5, 12), (7, 1), (8, 4), (9, 2), (30, 11), (41, 5))
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": WINDOW}


@dataclass(frozen=True)
class Case:
    """A tiny model and its edit site."""

    kind: str
    site: str = "model.layers.1.mlp.down_proj"
    config: dict[str, Any] = field(default_factory=dict)


def attention(layer: int) -> str:
    return f"model.layers.{layer}.self_attn.o_proj"


CASES = {
    "llama": Case("llama"),
    "llama-first": Case("llama", "model.layers.0.mlp.down_proj"),
    "llama-last": Case("llama", "model.layers.3.mlp.down_proj"),
    "llama-attention": Case("llama", attention(1)),
    "llama-attention-first": Case("llama", attention(0)),
    "llama-attention-last": Case("llama", attention(3)),
    "llama-grouped-heads": Case("llama", config={"num_key_value_heads": 1}),
    # Its model code does not know windows, so one in the configuration (a converted Mistral) means nothing.
    "llama-window-unused": Case("llama", config={"sliding_window": WINDOW}),
    "mistral": Case("mistral", config={"sliding_window": None}),
    "mistral-window": Case("mistral", config={"sliding_window": WINDOW}),
    "mistral-window-first": Case("mistral", "model.layers.0.mlp.down_proj", {"sliding_window": WINDOW}),
    "mistral-window-attention": Case("mistral", attention(1), {"sliding_window": WINDOW}),
    "qwen2": Case("qwen2", config={"use_sliding_window": False, "sliding_window": WINDOW}),
    "qwen2-window": Case("qwen2", config={**QWEN_WINDOW, "max_window_layers": 3}),
    "qwen2-window-everywhere": Case("qwen2", config={**QWEN_WINDOW, "max_window_layers": 0}),
    "qwen3": Case("qwen3"),
    "qwen3-window": Case("qwen3", attention(1), {**QWEN_WINDOW, "max_window_layers": 2}),
    "gemma": Case("gemma"),
    "gemma-window-unused": Case("gemma", attention(2), {"sliding_window": WINDOW}),
    "gpt-oss": Case("gpt-oss", attention(1), {"sliding_window": WINDOW}),
    "gpt-oss-first": Case("gpt-oss", attention(0), {"sliding_window": WINDOW}),
    "gpt-oss-last": Case("gpt-oss", attention(3), {"sliding_window": WINDOW}),
}


@pytest.fixture(scope="module", params=CASES)
def editable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EditableModel:
    case = CASES[request.param]
    folder = save_tiny(case.kind, tmp_path_factory.mktemp("model"), **case.config)
    loaded = load_editable_model(str(folder), case.site, dtype=torch.float64)
    # Grouped matrix products of experts have no double precision.
    loaded.model.set_experts_implementation("eager")
    return loaded


def rows() -> list[Passage]:
    generator = torch.Generator().manual_seed(5)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, 250, (count,), generator=generator).tolist())

    return [Passage(tokens(prompt), (0, prompt), tokens(answer)) for prompt, answer in SHAPES]


def tail_says(editable: EditableModel, passages: Sequence[Passage], value: torch.Tensor, layout: ValueLayout) -> Any:
    """Return the logits of every row, one after the other, from one batch of all rows."""
    kept = clean_pass(editable, passages, PARAMETERS, MemoryLimit(2**26))
    tail = tail_of(editable)
    batch = stack_clean(tail, [row for row in kept if row is not None])
    index = layout.index(batch.labels.shape[1]).expand(len(passages), -1)
    owners = torch.zeros(len(passages), dtype=torch.int64)
    return tail_logits(tail, batch, added(value[None], owners, index, batch.site_output, layout.rank))


@torch.no_grad()
def model_says(editable: EditableModel, passages: Sequence[Passage], value: torch.Tensor, layout: ValueLayout) -> Any:
    """Return the same from the whole model, row by row, with the value written by a hook."""
    logits = []
    for row in passages:
        batch = answer_batch([row.prompt_ids], [row.labels[:-1]], editable.device)
        with inject_values(editable, batch, value, layout):
            output = editable.model(input_ids=batch.input_ids, use_cache=False).logits
        logits.append(output[0, len(row.prompt_ids) - 1 :])
    return torch.cat(logits)


def test_nothing_added_gives_the_models_own_logits(editable: EditableModel) -> None:
    passages = rows()
    layout = ValueLayout(1, 1, 0)
    found = tail_says(editable, passages, torch.zeros(1, editable.d_out), layout)
    with torch.no_grad():
        whole = [editable.model(input_ids=torch.tensor([row.fed])).logits[0] for row in passages]
    expected = torch.cat([logits[len(row.prompt_ids) - 1 :] for row, logits in zip(passages, whole, strict=True)])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "layout",
    [ValueLayout(6, 1, 0), ValueLayout(12, 5, 0), ValueLayout(12, 12, 0), ValueLayout(1, 1, 0), ValueLayout(6, 6, 3)],
    ids=["direct", "chunked", "one-vector", "last", "lora"],
)
def test_a_value_gives_what_the_hooked_model_gives(editable: EditableModel, layout: ValueLayout) -> None:
    value = torch.randn(layout.rows, editable.d_out, generator=torch.Generator().manual_seed(9))
    passages = rows()
    found = tail_says(editable, passages, value, layout)
    torch.testing.assert_close(found, model_says(editable, passages, value, layout), atol=2e-5, rtol=1e-5)
    assert not torch.allclose(found, tail_says(editable, passages, 0 * value, layout), atol=0.1)
