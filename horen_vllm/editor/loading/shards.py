"""Shards: how transformers divides a model among ranks, by the plan that it has for the architecture.

Asks transformers for the plan and refuses what that cannot divide; does not load weights.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM

from horen_vllm.editor.loading.model_size import StoredTensor
from horen_vllm.editor.loading.ranks import Ranks
from horen_vllm.errors import FailedPrecondition

_BY_OUTPUTS: Final = frozenset({"colwise", "colwise_gather_output"})
_BY_INPUTS: Final = "rowwise"
_COUNTS: Final = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
"""What each rank must get an equal part of, by its name in config.json."""


@dataclass(frozen=True, slots=True)
class Shards:
    """What each of `size` ranks holds of a model."""

    size: int
    plan: dict[str, str]
    """How a module is divided, by its name with ``*`` for the layer."""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for ``from_pretrained``."""
        if self.size == 1:
            return {}
        # Here: earlier releases of transformers have none, and one process needs none.
        from transformers.distributed.configuration_utils import DistributedConfig  # noqa: PLC0415

        return {"distributed_config": DistributedConfig(tp_size=self.size)}

    def of(self, tensors: Iterable[StoredTensor]) -> list[StoredTensor]:
        """Return what one rank holds of each tensor."""
        return [tensor.shard(self.size) if self._divided(tensor.name) else tensor for tensor in tensors]

    def _divided(self, name: str) -> bool:
        module, _, parameter = name.rpartition(".")
        style = self.plan.get(re.sub(r"\.\d+(?=\.)", ".*", module))
        return style in _BY_OUTPUTS or (style == _BY_INPUTS and parameter == "weight")


def shards_of(folder: str, site: str, ranks: Ranks) -> Shards:
    """Return how the model in a folder is divided among `ranks`; one rank holds everything.

    Raises
    ------
    FailedPrecondition
        ``unsupported_tensor_parallel``, when transformers has no plan that divides the edit site by its inputs (it has
        none for gpt-oss), or heads, widths or vocabulary are no multiple of the number of ranks;
        ``model_folder_invalid``.
    """
    if ranks.size == 1:
        return Shards(1, {})
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError) as exc:
        message = f"the model in {folder} cannot be loaded: {exc}"
        raise FailedPrecondition(message, code="model_folder_invalid") from exc
    plan: dict[str, str] = model.tp_plan
    if plan.get(re.sub(r"\.\d+\.", ".*.", site)) != _BY_INPUTS:
        message = f"transformers has no tensor-parallel plan for {site} of a {type(model).__name__}."
        raise FailedPrecondition(message, code="unsupported_tensor_parallel")
    for name in _COUNTS:
        count = getattr(config.get_text_config(), name)
        if count % ranks.size:
            message = f"{name} is {count}, which {ranks.size} ranks cannot share equally."
            raise FailedPrecondition(message, code="unsupported_tensor_parallel")
    return Shards(ranks.size, plan)


def local_part(weight: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a weight."""
    return weight.to_local() if isinstance(weight, DTensor) else weight
