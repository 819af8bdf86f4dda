"""The base model as the editor sees it: frozen, with one linear layer marked as the edit site.

Does not know codebooks or how values are trained.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from horen_vllm.core.architectures import check_architecture, check_site, default_site
from horen_vllm.editor.loading.model_size import StoredTensor, check_fits, stored_tensors
from horen_vllm.editor.loading.ranks import ALONE, Ranks
from horen_vllm.editor.loading.shards import Shards, local_part, shards_of
from horen_vllm.editor.memory import is_out_of_memory
from horen_vllm.errors import FailedPrecondition
from horen_vllm.fingerprint import model_fingerprint, read_config


@dataclass(frozen=True, slots=True, kw_only=True)
class EditableModel:
    """A frozen base model with its tokenizer and edit site."""

    model: PreTrainedModel
    """In eval mode; no parameter requires a gradient."""
    tokenizer: PreTrainedTokenizerBase
    site: str
    """Module name of the edit site."""
    module: nn.Linear
    """The edit site: [..., d_in] to [..., d_out]."""
    d_in: int
    d_out: int
    end_id: int
    """Token that is trained as the end of an answer."""
    end_ids: frozenset[int]
    """Tokens that end an answer when generated; holds `end_id`."""
    fingerprint: str
    max_length: int
    """Most tokens that prompt, target and end may have together."""
    ranks: Ranks = ALONE
    """Who holds the model; with several, each has its own part of the layers, and of the site's input."""

    @property
    def device(self) -> torch.device:
        """Where the site's weight is."""
        return self.module.weight.device

    @property
    def has_chat_template(self) -> bool:
        """Whether prompts also exist in a chat form."""
        return bool(self.tokenizer.chat_template)


def load_editable_model(
    folder: str,
    site: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    ranks: Ranks = ALONE,
) -> EditableModel:
    """Load a model folder for editing, without any access to the network.

    Parameters
    ----------
    folder
        A folder with config.json, safetensors weights and tokenizer.json.
    site
        Module name of the linear layer to edit; the paper's choice for the model when None.
    dtype
        Type of weights and activations; keys and values are float32 whatever it is.
    device
        Torch device.
    ranks
        Who loads the model together (`ranks.join_ranks`): all call this at the same time, and each gets its part.

    Raises
    ------
    FailedPrecondition
        ``model_folder_invalid``, ``unsupported_architecture``, ``unknown_site``, ``unsupported_site``,
        ``model_too_large`` or ``unsupported_tensor_parallel``.
    """
    config = read_config(Path(folder))
    architecture = _supported_architecture(config)
    layers = int(config["num_hidden_layers"])
    site = site or default_site(folder, architecture, layers)
    check_site(site, architecture, layers)
    tensors = stored_tensors(folder)
    _check_stored_site(tensors, site)
    shards = shards_of(folder, site, ranks)
    check_fits(shards.of(tensors.values()), dtype, device, ranks.hosted)
    # A rank that loads already would count as a lack of memory.
    ranks.meet()
    fingerprint = model_fingerprint(folder, site)
    model, tokenizer = _load(folder, dtype, device, shards)
    module = _site_module(model, site)
    ranks.meet()
    end_id, end_ids = _end_tokens(folder, model, tokenizer)
    return EditableModel(
        model=model,
        tokenizer=tokenizer,
        site=site,
        module=module,
        d_in=module.in_features,
        d_out=module.out_features,
        end_id=end_id,
        end_ids=end_ids,
        fingerprint=fingerprint,
        max_length=int(config["max_position_embeddings"]),
        ranks=ranks,
    )


def _supported_architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures") or ["none named"]
    check_architecture(names[0])
    missing = [key for key in ("num_hidden_layers", "max_position_embeddings") if key not in config]
    if missing:
        message = f"config.json has no {missing[0]}."
        raise FailedPrecondition(message, code="model_folder_invalid")
    return str(names[0])


def _check_stored_site(tensors: dict[str, StoredTensor], site: str) -> None:
    """Refuse a site whose weight is not stored as plain numbers."""
    parts = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{site}.")}
    weight = parts.get(f"{site}.weight")
    if parts and (weight is None or not weight.plain):
        stored = ", ".join(f"{name.removeprefix(f'{site}.')} ({part.dtype})" for name, part in sorted(parts.items()))
        message = f"{site} is quantised: it is stored as {stored}; only plain float weights can be edited."
        raise FailedPrecondition(message, code="unsupported_site")


def _load(
    folder: str, dtype: torch.dtype, device: str, shards: Shards
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # With loading info the result is a pair, which the library's annotation leaves out.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True, **shards.options
        )
        model = _frozen(loaded[0], torch.device(device))
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, MemoryError, SafetensorError) as exc:
        if is_out_of_memory(exc):
            message = f"the model in {folder} does not fit into the memory of {device} in {dtype}: {exc}"
            raise FailedPrecondition(message, code="model_too_large") from exc
        message = f"the model in {folder} cannot be loaded: {exc}"
        raise FailedPrecondition(message, code="model_folder_invalid") from exc
    missing = loaded[1]["missing_keys"]
    if missing:
        # transformers fills missing weights with random numbers and only warns.
        message = f"the weights in {folder} lack {min(missing)}."
        raise FailedPrecondition(message, code="model_folder_invalid")
    return model, tokenizer


def _frozen(model: Any, device: torch.device) -> PreTrainedModel:
    # Any: the library leaves `eval` and `to` without usable annotations.
    frozen: PreTrainedModel = model.to(device).eval().requires_grad_(requires_grad=False)
    return frozen


def _site_module(model: PreTrainedModel, site: str) -> nn.Linear:
    try:
        module = model.get_submodule(site)
    except AttributeError as exc:
        message = f"the model has no module {site}."
        raise FailedPrecondition(message, code="unknown_site") from exc
    # Quantised layers are subclasses, whose weight and output are not those of a linear layer.
    if type(module) is not nn.Linear or not module.weight.dtype.is_floating_point:
        message = f"{site} is a {type(module).__name__}, not a plain linear layer: quantised sites cannot be edited."
        raise FailedPrecondition(message, code="unsupported_site")
    weight = local_part(module.weight)
    if not torch.isfinite(weight).all():
        count = int((~torch.isfinite(weight)).sum())
        message = f"the weight of {site} has {count} values that are not finite numbers."
        raise FailedPrecondition(message, code="model_folder_invalid")
    return module


def _end_tokens(folder: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, frozenset[int]]:
    generation = model.generation_config
    listed = (generation.eos_token_id if generation else None) or model.config.eos_token_id
    ends = [listed] if isinstance(listed, int) else list(listed or [])
    # The tokenizer's own end token is the one that closes a chat turn in instruct models.
    if isinstance(tokenizer.eos_token_id, int):
        ends.insert(0, tokenizer.eos_token_id)
    if not ends:
        message = f"the model in {folder} names no end token."
        raise FailedPrecondition(message, code="model_folder_invalid")
    return ends[0], frozenset(ends)
