"""Which model architectures can be edited, and at which layer by default (appendix D.4.3)."""

from typing import Final

from horen_vllm.core.presets import known_model
from horen_vllm.errors import FailedPrecondition

_GPT_OSS: Final = "GptOssForCausalLM"
SUPPORTED_ARCHITECTURES: Final = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
    _GPT_OSS,
)
"""Decoder-only causal models that the editor is tested with, by the name in config.json."""


def check_architecture(name: str) -> None:
    """Refuse an architecture that is not supported (FailedPrecondition ``unsupported_architecture``)."""
    if name not in SUPPORTED_ARCHITECTURES:
        message = f"architecture {name} cannot be edited; supported: {', '.join(SUPPORTED_ARCHITECTURES)}."
        raise FailedPrecondition(message, code="unsupported_architecture")


def default_site(model: str, architecture: str, num_layers: int) -> str:
    """Return the edit site's module name: the paper's for its models, else layer ``num_layers - 3``.

    Parameters
    ----------
    model
        Hub name or folder.
    architecture
        Name in config.json.
    num_layers
        Number of decoder layers.
    """
    known = known_model(model)
    if known is not None:
        return known.site
    # A mixture of experts has no single down_proj, so there the attention's output is edited.
    linear = "self_attn.o_proj" if architecture == _GPT_OSS else "mlp.down_proj"
    return f"model.layers.{max(num_layers - 3, 0)}.{linear}"
