"""What the engine half refuses at start-up, each with its reason: never a silently wrong answer.

Every row is a configuration in which the plugin is wrong or not yet proved to be right. What is refused for one
request stands in `admission`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from horen_vllm.errors import FailedPrecondition

DRAFTERS: Final = ("ngram", "draft_model")
"""Speculative methods that were compared with the oracle on the V1 runner."""
DRAFTERS_V2: Final = ("draft_model",)
"""The same for the V2 runner."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused configuration: its name, why, and how to see it in a ``VllmConfig``."""

    name: str
    reason: str
    applies: Callable[[Any], bool]


def _parallel(field: str) -> Callable[[Any], bool]:
    return lambda config: getattr(config.parallel_config, field) > 1


def _pass(field: str) -> Callable[[Any], bool]:
    # vLLM 0.32 dropped both passes.
    return lambda config: bool(getattr(config.compilation_config.pass_config, field, False))


def _model(field: str) -> Callable[[Any], bool]:
    return lambda config: bool(getattr(config.model_config, field))


def _speculates(config: Any, drafters: tuple[str, ...]) -> bool:
    return config.speculative_config is not None and config.speculative_config.method not in drafters


def _verifies_adaptively(config: Any) -> bool:
    # Not in every tested release.
    return bool(getattr(config.speculative_config, "enable_adaptive_verification", False))


def _compiles_in_one_piece(config: Any) -> bool:
    from vllm.config import CompilationMode  # noqa: PLC0415 - importing vLLM early has side effects

    compilation = config.compilation_config
    return compilation.mode == CompilationMode.VLLM_COMPILE and not compilation.splitting_ops


def _uses_stock_compile(config: Any) -> bool:
    from vllm.config import CompilationMode  # noqa: PLC0415

    return bool(config.compilation_config.mode == CompilationMode.STOCK_TORCH_COMPILE)


def _uses_rust_frontend(_config: Any) -> bool:
    from vllm import envs  # noqa: PLC0415

    return bool(envs.VLLM_USE_RUST_FRONTEND)


REFUSALS: Final = (
    Refusal(
        "dual-batch overlap",
        "its microbatches call the edit site with token slices that the step's plan does not describe",
        lambda config: bool(config.parallel_config.use_ubatching),
    ),
    Refusal(
        "prefill context parallelism",
        "it splits the tokens of one prompt over ranks, so no rank sees the whole query window",
        _parallel("prefill_context_parallel_size"),
    ),
    Refusal(
        "decode context parallelism",
        "prefix-cache hits over split KV blocks are not proved yet",
        _parallel("decode_context_parallel_size"),
    ),
    Refusal(
        "pipeline parallelism",
        "decisions would have to travel between stages; it is not proved yet",
        _parallel("pipeline_parallel_size"),
    ),
    Refusal("data parallelism", "updates do not reach every engine yet", _parallel("data_parallel_size")),
    Refusal(
        "an external launcher",
        "every rank would run an engine of its own, and an update would reach one of them",
        lambda config: config.parallel_config.distributed_executor_backend == "external_launcher",
    ),
    Refusal(
        "the sequence-parallel pass",
        "it rewrites the all-reduce that precedes the edit site's output",
        _pass("enable_sp"),
    ),
    Refusal(
        "asynchronous tensor parallelism",
        "it fuses the all-reduce that precedes the edit site's output into the layer",
        _pass("fuse_gemm_comms"),
    ),
    Refusal(
        "inductor graph partition",
        "that the edit site runs between the partitions is not proved yet",
        lambda config: bool(config.compilation_config.use_inductor_graph_partition),
    ),
    Refusal(
        "compilation without splitting operations",
        "that the edit site runs inside one compiled graph on a GPU is not proved yet",
        _compiles_in_one_piece,
    ),
    Refusal("stock torch.compile", "graph breaks at the edit site are not proved yet", _uses_stock_compile),
    Refusal(
        "kv_sharing_fast_prefill",
        "it runs late layers on the last tokens only, so the query window is not computed",
        lambda config: bool(config.cache_config.kv_sharing_fast_prefill),
    ),
    Refusal(
        "a KV connector",
        "external KV blocks may reach past the query window's start",
        lambda config: config.kv_transfer_config is not None,
    ),
    Refusal(
        "a scheduler class of your own",
        "it may bypass the rules on prefix-cache hits",
        lambda config: config.scheduler_config.scheduler_cls is not None,
    ),
    Refusal(
        "speculative decoding other than ngram or draft_model",
        "drafts that read the edited model's hidden states are not proved yet",
        lambda config: _speculates(config, DRAFTERS),
    ),
    Refusal(
        "speculative decoding other than draft_model on the V2 model runner",
        "it is not proved yet (VLLM_USE_V2_MODEL_RUNNER=0 chooses the other runner)",
        lambda config: bool(config.use_v2_model_runner) and _speculates(config, DRAFTERS_V2),
    ),
    Refusal(
        "adaptive draft verification",
        "it divides a batch's rows among the requests on the device, where the step's plan does not see it",
        _verifies_adaptively,
    ),
    Refusal(
        "weight transfer",
        "keys belong to the weights they were made with",
        lambda config: config.weight_transfer_config is not None,
    ),
    Refusal(
        "pooling models",
        "there is no answer to write a value into",
        lambda config: config.model_config.runner_type != "generate",
    ),
    Refusal(
        "encoder-decoder models",
        "the prompt is not computed by the decoder that holds the edit site",
        _model("is_encoder_decoder"),
    ),
    Refusal("diffusion models", "they write many answer positions at once and rewrite them", _model("is_diffusion")),
    Refusal(
        "models with recurrent state",
        "reuse of cached states at a query window's start is not proved yet",
        lambda config: bool(config.model_config.is_hybrid or config.model_config.is_attention_free),
    ),
    Refusal(
        "replayed sliding windows",
        "a prefix-cache hit computes tokens again that were scheduled as done",
        lambda config: any(name.startswith("DeepseekV41") for name in config.model_config.architectures),
    ),
    Refusal(
        "VLLM_FLOAT32_MATMUL_PRECISION below highest",
        "scores would be rounded more coarsely than the tie margin",
        lambda _config: torch.get_float32_matmul_precision() != "highest",
    ),
    Refusal(
        "the Rust frontend",
        "the rules on who may use a codebook run in the Python one",
        _uses_rust_frontend,
    ),
)


def check_config(vllm_config: Any) -> None:
    """Refuse a configuration of the list above.

    Raises
    ------
    FailedPrecondition
        ``unsupported_engine_mode``, with the first refusal's name and reason.
    """
    for refusal in REFUSALS:
        if refusal.applies(vllm_config):
            message = f"horen-vllm cannot serve edits with {refusal.name}: {refusal.reason}."
            raise FailedPrecondition(message, code="unsupported_engine_mode")
