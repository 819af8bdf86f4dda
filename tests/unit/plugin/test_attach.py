"""Attaching: which layer is the edit site, which layers are refused, and what vLLM's compile cache is keyed by."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.model_executor.models.registry import ModelRegistry

from horen_vllm import __version__
from horen_vllm.core.architectures import SUPPORTED_ARCHITECTURES
from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.attach import _prepare_compilation, find_site

NAME = "layers.0.mlp.down_proj"


class RowParallel(torch.nn.Module):
    """The attributes of vLLM's row-parallel linear layer that matter here."""

    def __init__(self, **changed: Any) -> None:
        super().__init__()
        self.input_size_per_partition, self.output_size = 6, 5
        self.reduce_results, self.skip_bias_add, self.requires_unquantized_input = True, False, False
        for name, value in changed.items():
            setattr(self, name, value)


def model_with(layer: torch.nn.Module) -> torch.nn.Module:
    block = torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict({"down_proj": layer})})
    return torch.nn.ModuleDict({"layers": torch.nn.ModuleList([block])})


def test_the_named_layer_is_found_and_asks_for_plain_inputs() -> None:
    linear = RowParallel()
    assert find_site(model_with(linear), NAME) is linear
    assert linear.requires_unquantized_input


def test_under_lora_the_wrapper_is_hooked() -> None:
    wrapper, linear = torch.nn.Module(), RowParallel()
    wrapper.base_layer = linear
    assert find_site(model_with(wrapper), NAME) is wrapper
    assert linear.requires_unquantized_input


@pytest.mark.parametrize(
    ("layer", "name", "code"),
    [
        (RowParallel(), "layers.9.mlp.down_proj", "unknown_site"),
        (RowParallel(), "", "unsupported_site"),
        (torch.nn.Linear(2, 2), NAME, "unsupported_site"),
        (RowParallel(reduce_results=False), NAME, "unsupported_site"),
        (RowParallel(skip_bias_add=True), NAME, "unsupported_site"),
    ],
)
def test_a_layer_that_is_not_one_is_refused_by_name(layer: torch.nn.Module, name: str, code: str) -> None:
    with pytest.raises(FailedPrecondition, match=repr(name)) as caught:
        find_site(model_with(layer), name)
    assert caught.value.code == code


def served_model(architecture: str, path: str, layer: torch.nn.Module) -> torch.nn.Module:
    """Return a model with vLLM's own name map for `architecture`, and one layer."""
    owner: torch.nn.Module = layer
    for part in reversed(path.split(".")):
        owner = torch.nn.ModuleDict({part: owner})
    mapper = getattr(ModelRegistry.models[architecture].load_model_cls(), "hf_to_vllm_mapper", None)
    if mapper is not None:
        owner.hf_to_vllm_mapper = mapper
    return owner


@pytest.mark.parametrize(
    ("architecture", "name", "own_name"),
    [
        ("GptOssForCausalLM", "model.layers.2.self_attn.o_proj", "model.layers.2.attn.o_proj"),
        *(
            (architecture, f"model.layers.2.{linear}", f"model.layers.2.{linear}")
            for architecture in SUPPORTED_ARCHITECTURES
            if architecture != "GptOssForCausalLM"
            for linear in ("mlp.down_proj", "self_attn.o_proj")
        ),
    ],
)
def test_the_layer_is_found_under_the_name_that_vllm_gives_it(architecture: str, name: str, own_name: str) -> None:
    linear = RowParallel()
    assert find_site(served_model(architecture, own_name, linear), name) is linear


def test_a_missing_layer_is_refused_under_both_names() -> None:
    model = served_model("GptOssForCausalLM", "model.layers.2.attn.o_proj", RowParallel())
    with pytest.raises(FailedPrecondition) as caught:
        find_site(model, "model.layers.3.self_attn.o_proj")
    assert caught.value.code == "unknown_site"
    for name in ("'model.layers.3.self_attn.o_proj'", "(in vLLM: model.layers.3.attn.o_proj)"):
        assert name in caught.value.message


def test_the_experts_of_gpt_oss_are_no_module_of_that_name() -> None:
    model = served_model("GptOssForCausalLM", "model.layers.2.mlp.experts", RowParallel())
    with pytest.raises(FailedPrecondition) as caught:
        find_site(model, "model.layers.2.mlp.down_proj")
    assert caught.value.code == "unknown_site"


@pytest.mark.parametrize("splitting", [None, [], ["vllm::attention"], ["vllm::attention", "horen::edit"]])
def test_the_compile_cache_knows_the_build_and_not_the_static_folder(splitting: list[str] | None) -> None:
    """The section may be the caller's own dictionary, who starts another engine with it."""
    asked = {"site": NAME, "static_dir": "books", "key_budget_mib": 4}
    compilation = SimpleNamespace(splitting_ops=splitting, cudagraph_mode=None)
    config = SimpleNamespace(additional_config={"horen": asked, "other": 1}, compilation_config=compilation)
    _prepare_compilation(config)
    section = {"site": NAME, "key_budget_mib": 4, "build": __version__}
    assert config.additional_config == {"horen": section, "other": 1}
    assert asked == {"site": NAME, "static_dir": "books", "key_budget_mib": 4}
    assert compilation.splitting_ops == (["vllm::attention", "horen::edit"] if splitting else splitting)
