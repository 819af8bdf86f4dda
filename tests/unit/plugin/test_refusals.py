"""Refused engine modes: each is seen in a real configuration and named, and the accepted ones pass.

vLLM makes the configurations itself. A mode that its CPU platform turns off or rejects is set on a finished one.
"""

import dataclasses
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.attach import find_site
from horen_vllm.plugin.refusals import REFUSALS, check_config

NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
MODEL = str(demo_model_dir())
DRAFT = {"method": "draft_model", "model": MODEL, "num_speculative_tokens": 3}


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    # Making a configuration loads vLLM's plugins, which would stay in this process.
    monkeypatch.setenv("VLLM_PLUGINS", "none")


def asked(**options: Any) -> Any:
    """Return the configuration that vLLM makes of engine options."""
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(model=MODEL, **options).create_engine_config()


def changed(path: str, value: Any, **options: Any) -> Any:
    """Return such a configuration with one attribute set afterwards."""
    config = asked(**options)
    *parents, leaf = path.split(".")
    owner = operator.attrgetter(".".join(parents))(config) if parents else config
    object.__setattr__(owner, leaf, value)
    return config


def of_model_kind(kind: str) -> Any:
    """Return the configuration of a model that vLLM's registry would call `kind`."""
    info = asked().model_config._model_info
    return changed("model_config._model_info", dataclasses.replace(info, **{kind: True}))


def compiled(**attributes: Any) -> Any:
    """Return a configuration as a GPU has it, where ``VLLM_COMPILE`` is not turned off."""
    from vllm.config import CompilationMode

    config = asked()
    for name, value in {"mode": CompilationMode.VLLM_COMPILE, "splitting_ops": ["x::y"], **attributes}.items():
        object.__setattr__(config.compilation_config, name, value)
    return config


def on_v2(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Return the configuration of an engine on the V2 runner."""
    config = asked(**options)
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    return config


def with_rust_frontend(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    return asked()


def with_coarse_products(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    return asked()


REFUSED: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "dual-batch overlap": lambda _: changed("parallel_config.enable_dbo", True),
    "prefill context parallelism": lambda _: changed("parallel_config.prefill_context_parallel_size", 2),
    "decode context parallelism": lambda _: changed("parallel_config.decode_context_parallel_size", 2),
    "pipeline parallelism": lambda _: asked(pipeline_parallel_size=2),
    "data parallelism": lambda _: asked(data_parallel_size=2),
    "an external launcher": lambda _: asked(distributed_executor_backend="external_launcher"),
    "the sequence-parallel pass": lambda _: changed("compilation_config.pass_config.enable_sp", True),
    "asynchronous tensor parallelism": lambda _: changed("compilation_config.pass_config.fuse_gemm_comms", True),
    "inductor graph partition": lambda _: asked(compilation_config={"use_inductor_graph_partition": True}),
    "compilation without splitting operations": lambda _: compiled(splitting_ops=[]),
    "stock torch.compile": lambda _: compiled(mode=1),
    "kv_sharing_fast_prefill": lambda _: asked(kv_sharing_fast_prefill=True),
    "a KV connector": lambda _: asked(kv_transfer_config={"kv_connector": "ExampleConnector", "kv_role": "kv_both"}),
    "a scheduler class of your own": lambda _: asked(scheduler_cls="vllm.v1.core.sched.scheduler.Scheduler"),
    "speculative decoding other than ngram or draft_model": lambda _: asked(
        speculative_config={**NGRAM, "method": "ngram_gpu"}
    ),
    "speculative decoding other than draft_model on the V2 model runner": lambda patch: on_v2(
        patch, speculative_config=NGRAM
    ),
    "adaptive draft verification": lambda _: changed(
        "speculative_config.enable_adaptive_verification", True, speculative_config=DRAFT
    ),
    "weight transfer": lambda _: asked(weight_transfer_config={"backend": "nccl"}),
    "pooling models": lambda _: asked(runner="pooling"),
    "encoder-decoder models": lambda _: asked(hf_overrides={"is_encoder_decoder": True}),
    "diffusion models": lambda _: changed("model_config.is_diffusion", True),
    "models with recurrent state": lambda _: of_model_kind("is_hybrid"),
    "replayed sliding windows": lambda _: changed(
        "model_config.model_arch_config.architectures", ["DeepseekV41ForCausalLM"]
    ),
    "VLLM_FLOAT32_MATMUL_PRECISION below highest": with_coarse_products,
    "the Rust frontend": with_rust_frontend,
}

ACCEPTED: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "plain": lambda _: asked(),
    "eager": lambda _: asked(enforce_eager=True),
    "piecewise compilation": lambda _: compiled(),
    "tensor parallelism": lambda _: changed("parallel_config.tensor_parallel_size", 2),
    "LoRA": lambda _: asked(enable_lora=True),
    "ngram": lambda _: asked(speculative_config=NGRAM),
    "draft model": lambda _: asked(speculative_config=DRAFT),
    "V2 runner": on_v2,
    "draft model on the V2 runner": lambda patch: on_v2(patch, speculative_config=DRAFT),
    "no prefix cache": lambda _: asked(enable_prefix_caching=False),
    "asynchronous scheduling": lambda _: changed("scheduler_config.async_scheduling", True),
}


def test_every_refusal_has_its_case_here() -> None:
    assert {refusal.name for refusal in REFUSALS} == REFUSED.keys()


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_accepted_mode_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_config(ACCEPTED[name](monkeypatch))


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_mode_is_named_with_its_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = REFUSED[name](monkeypatch)
    with pytest.raises(FailedPrecondition) as caught:
        check_config(config)
    reason = next(refusal.reason for refusal in REFUSALS if refusal.name == name)
    assert caught.value.code == "unsupported_engine_mode"
    assert caught.value.message == f"horen-vllm cannot serve edits with {name}: {reason}."


def test_an_attention_free_model_is_refused_as_one_with_state() -> None:
    with pytest.raises(FailedPrecondition, match="recurrent state"):
        check_config(of_model_kind("is_attention_free"))


def test_offloading_the_kv_cache_counts_as_a_connector() -> None:
    with pytest.raises(FailedPrecondition, match="a KV connector"):
        check_config(asked(kv_offloading_size=1.0))


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


def test_the_limits_page_has_the_same_list() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/limits.md").read_text(encoding="utf-8")
    table = page.partition("\n| refused | why |\n|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [f"| {refusal.name} | {refusal.reason} |" for refusal in REFUSALS]
