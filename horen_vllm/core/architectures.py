"""Which model architectures can be edited, and at which layer by default (appendix D.4.3)."""

import re
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


_SITE: Final = re.compile(r"model\.layers\.(\d+)\.(mlp\.down_proj|self_attn\.o_proj)")


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


def check_site(site: str, architecture: str, num_layers: int) -> None:
    """Refuse a module that cannot be the edit site of such a model.

    A server adds values to row-parallel layers only; in the supported architectures those are the two that are
    allowed here.

    Parameters
    ----------
    site
        Module name.
    architecture
        Name in config.json.
    num_layers
        Number of decoder layers.

    Raises
    ------
    FailedPrecondition
        ``unsupported_site``, for a module of another kind; ``unknown_site``, for a layer that does not exist.
    """
    match = _SITE.fullmatch(site)
    if match is None:
        message = (
            f"{site} cannot be edited: an edit site is model.layers.N.mlp.down_proj or model.layers.N.self_attn.o_proj."
        )
        raise FailedPrecondition(message, code="unsupported_site")
    if int(match[1]) >= num_layers:
        message = f"the model has no module {site}: it has {num_layers} layers, 0 to {num_layers - 1}."
        raise FailedPrecondition(message, code="unknown_site")
    if architecture == _GPT_OSS and match[2] != "self_attn.o_proj":
        message = f"{site} cannot be edited: a mixture of experts has no single down_proj; use self_attn.o_proj."
        raise FailedPrecondition(message, code="unsupported_site")
