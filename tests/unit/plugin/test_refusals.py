"""Refused engine modes: each is seen and named, and a plain configuration passes."""

import operator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.attach import find_site
from horen_vllm.plugin.refusals import REFUSALS, check_config, check_runner

CHANGES = {
    "dual-batch overlap": ("parallel_config.use_ubatching", True),
    "prefill context parallelism": ("parallel_config.prefill_context_parallel_size", 2),
    "pipeline parallelism": ("parallel_config.pipeline_parallel_size", 2),
    "data parallelism": ("parallel_config.data_parallel_size", 2),
    "tensor parallelism": ("parallel_config.tensor_parallel_size", 2),
    "the sequence-parallel pass": ("compilation_config.pass_config.enable_sp", True),
    "kv_sharing_fast_prefill": ("cache_config.kv_sharing_fast_prefill", True),
    "a KV connector": ("kv_transfer_config", object()),
    "speculative decoding": ("speculative_config", object()),
    "LoRA adapters": ("lora_config", object()),
    "pooling models": ("model_config.runner_type", "pooling"),
    "encoder-decoder models": ("model_config.is_encoder_decoder", True),
}


def plain() -> SimpleNamespace:
    return SimpleNamespace(
        parallel_config=SimpleNamespace(pipeline_parallel_size=1, data_parallel_size=1, tensor_parallel_size=1),
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace(enable_sp=False)),
        cache_config=SimpleNamespace(),
        kv_transfer_config=None,
        speculative_config=None,
        lora_config=None,
        model_config=SimpleNamespace(runner_type="generate", is_encoder_decoder=False),
    )


def test_a_plain_configuration_passes() -> None:
    check_config(plain())


def test_every_refusal_has_its_case_here() -> None:
    assert {refusal.name for refusal in REFUSALS} == CHANGES.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_a_refused_mode_is_named_with_its_reason(name: str) -> None:
    config, (path, value) = plain(), CHANGES[name]
    *parents, leaf = path.split(".")
    setattr(operator.attrgetter(".".join(parents))(config) if parents else config, leaf, value)
    with pytest.raises(FailedPrecondition) as caught:
        check_config(config)
    reason = next(refusal.reason for refusal in REFUSALS if refusal.name == name)
    assert caught.value.code == "unsupported_engine_mode"
    assert caught.value.message == f"horen-vllm cannot serve edits with {name}: {reason}."


@pytest.mark.parametrize(("device", "eager"), [("cpu", False), ("cpu", True), ("cuda", True)])
def test_the_first_runner_passes_where_no_graph_is_captured(device: str, eager: bool) -> None:
    check_runner(SimpleNamespace(), device, eager=eager)


@pytest.mark.parametrize(
    ("runner", "device", "word"),
    [(SimpleNamespace(model_state=None), "cpu", "V1"), (SimpleNamespace(), "cuda", "enforce-eager")],
)
def test_another_runner_or_captured_graphs_are_refused(runner: Any, device: str, word: str) -> None:
    with pytest.raises(FailedPrecondition, match=word) as caught:
        check_runner(runner, device, eager=False)
    assert caught.value.code == "unsupported_engine_mode"


class RowParallel(torch.nn.Linear):
    """A linear layer with the attributes of vLLM's."""

    def __init__(self, *, reduce_results: bool = True, skip_bias_add: bool = False) -> None:
        super().__init__(4, 3)
        self.input_size_per_partition, self.output_size = 4, 3
        self.reduce_results, self.skip_bias_add = reduce_results, skip_bias_add


def test_a_row_parallel_site_is_found_and_asks_for_plain_inputs() -> None:
    model = torch.nn.Sequential(RowParallel())
    assert find_site(model, "0") is model[0]
    assert find_site(model, "0").requires_unquantized_input is True


@pytest.mark.parametrize(
    ("name", "layer", "code"),
    [
        ("1", RowParallel(), "unknown_site"),
        ("0", torch.nn.Linear(4, 3), "unsupported_site"),
        ("0", RowParallel(reduce_results=False), "unsupported_site"),
        ("0", RowParallel(skip_bias_add=True), "unsupported_site"),
    ],
)
def test_a_site_that_cannot_be_hooked_is_refused(name: str, layer: torch.nn.Module, code: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        find_site(torch.nn.Sequential(layer), name)
    assert caught.value.code == code
