"""What the engine half refuses at start-up, each with its reason: never a silently wrong answer.

Every row is a configuration in which the plugin is wrong or not yet proved to be right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from horen_vllm.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused configuration: its name, why, and how to see it in a ``VllmConfig``."""

    name: str
    reason: str
    applies: Callable[[Any], bool]


REFUSALS: Final = (
    Refusal(
        "dual-batch overlap",
        "its microbatches call the edit site with token slices that the step's plan does not describe",
        lambda config: bool(getattr(config.parallel_config, "use_ubatching", False)),
    ),
    Refusal(
        "prefill context parallelism",
        "it splits the tokens of one prompt over ranks, so no rank sees the whole query window",
        lambda config: getattr(config.parallel_config, "prefill_context_parallel_size", 1) > 1,
    ),
    Refusal(
        "pipeline parallelism",
        "decisions would have to travel between stages; it is not proved yet",
        lambda config: config.parallel_config.pipeline_parallel_size > 1,
    ),
    Refusal(
        "data parallelism",
        "updates do not reach every engine yet",
        lambda config: config.parallel_config.data_parallel_size > 1,
    ),
    Refusal(
        "tensor parallelism",
        "partial scores are not reduced over ranks yet",
        lambda config: config.parallel_config.tensor_parallel_size > 1,
    ),
    Refusal(
        "the sequence-parallel pass",
        "it rewrites the all-reduce that precedes the edit site's output",
        lambda config: bool(getattr(config.compilation_config.pass_config, "enable_sp", False)),
    ),
    Refusal(
        "kv_sharing_fast_prefill",
        "it runs late layers on the last tokens only, so the query window is not computed",
        lambda config: bool(getattr(config.cache_config, "kv_sharing_fast_prefill", False)),
    ),
    Refusal(
        "a KV connector",
        "external KV blocks may reach past the query window's start",
        lambda config: config.kv_transfer_config is not None,
    ),
    Refusal(
        "speculative decoding",
        "answer positions of rejected drafts are not proved yet",
        lambda config: config.speculative_config is not None,
    ),
    Refusal(
        "LoRA adapters",
        "keys are made with the base model's activations",
        lambda config: config.lora_config is not None,
    ),
    Refusal(
        "pooling models",
        "there is no answer to write a value into",
        lambda config: config.model_config.runner_type != "generate",
    ),
    Refusal(
        "encoder-decoder models",
        "the prompt is not computed by the decoder that holds the edit site",
        lambda config: bool(config.model_config.is_encoder_decoder),
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


def check_runner(runner: Any, device_type: str, *, eager: bool) -> None:
    """Refuse a model runner on which the hooks are not proved (``unsupported_engine_mode``)."""
    if hasattr(runner, "model_state"):
        message = "horen-vllm supports vLLM's V1 model runner: set VLLM_USE_V2_MODEL_RUNNER=0."
        raise FailedPrecondition(message, code="unsupported_engine_mode")
    if device_type != "cpu" and not eager:
        message = "horen-vllm does not capture CUDA graphs yet: start with --enforce-eager."
        raise FailedPrecondition(message, code="unsupported_engine_mode")
