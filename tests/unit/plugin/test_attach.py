"""Attaching: which layer is the edit site, which layers are refused, and what vLLM's compile cache is keyed by."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from horen_vllm import __version__
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
