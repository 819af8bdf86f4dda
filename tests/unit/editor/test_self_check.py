"""The check of a worker's model: every supported architecture passes, a model that does something else does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.editor.loading.self_check import check_tail
from horen_vllm.errors import FailedPrecondition
from tests.unit.editor.conftest import save_tiny

ModelFolder = Callable[[str], Path]


def refusal(editable: EditableModel) -> FailedPrecondition:
    with pytest.raises(FailedPrecondition) as caught:
        check_tail(editable)
    return caught.value


@pytest.fixture
def own(model_folder: ModelFolder) -> EditableModel:
    """A model that a test may patch."""
    return load_editable_model(str(model_folder("llama")))


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gpt-oss"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_architecture_passes(model_folder: ModelFolder, kind: str, dtype: torch.dtype) -> None:
    check_tail(load_editable_model(str(model_folder(kind)), dtype=dtype))


@pytest.mark.parametrize("linear", ["mlp.down_proj", "self_attn.o_proj"])
@pytest.mark.parametrize("layer", [0, 3])
def test_the_first_and_the_last_layer_pass(model_folder: ModelFolder, linear: str, layer: int) -> None:
    check_tail(load_editable_model(str(model_folder("llama")), f"model.layers.{layer}.{linear}"))


def test_a_layer_that_scales_its_output_after_the_site_is_refused(own: EditableModel) -> None:
    site_layer: Any = own.model.get_submodule("model.layers.1")
    forward = site_layer.forward
    site_layer.forward = lambda *args, **kwargs: forward(*args, **kwargs) * 0.8
    error = refusal(own)
    assert error.code == "unsupported_architecture"
    for part in ("model.layers.1.mlp.down_proj", "prompt of 1 tokens", "standard deviations", "0.001", "float32"):
        assert part in error.message


def test_a_layer_with_a_second_feed_forward_part_is_refused(model_folder: ModelFolder) -> None:
    editable = load_editable_model(str(model_folder("llama")), "model.layers.1.self_attn.o_proj", torch.bfloat16)
    layer: Any = editable.model.get_submodule("model.layers.1")
    forward = layer.forward

    def twice(*args: Any, **kwargs: Any) -> torch.Tensor:
        hidden: torch.Tensor = forward(*args, **kwargs)
        more: torch.Tensor = layer.mlp(layer.post_attention_layernorm(hidden))
        return hidden + more

    layer.forward = twice
    assert refusal(editable).code == "unsupported_architecture"


def test_a_model_that_changes_its_logits_is_refused(own: EditableModel) -> None:
    model: Any = own.model
    forward = model.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = 3.0 * torch.tanh(output.logits / 3.0)
        return output

    model.forward = capped
    assert refusal(own).code == "unsupported_architecture"


def test_a_window_that_only_the_tail_believes_in_is_refused_by_the_long_prompt(own: EditableModel) -> None:
    attention: Any = own.model.get_submodule("model.layers.2.self_attn")
    attention.sliding_window = 20
    error = refusal(own)
    assert error.code == "unsupported_architecture"
    assert "prompt of 28 tokens" in error.message


def test_numbers_that_are_none_are_refused(own: EditableModel) -> None:
    head: Any = own.model.get_submodule("lm_head")
    head.weight.data.fill_(float("nan"))
    error = refusal(own)
    assert (error.code, "nan" in error.message) == ("unsupported_architecture", True)


def test_prompts_fit_the_model(tmp_path: Path) -> None:
    check_tail(load_editable_model(str(save_tiny("llama", tmp_path, max_position_embeddings=12))))


def test_no_memory_is_told_as_such(own: EditableModel) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise torch.OutOfMemoryError

    own.model.get_submodule("model").register_forward_pre_hook(refuse)
    assert refusal(own).code == "model_too_large"


def test_the_check_leaves_no_hooks(own: EditableModel) -> None:
    check_tail(own)
    assert not own.module._forward_hooks
    assert not own.module._forward_pre_hooks
