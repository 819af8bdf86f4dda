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

from horen_vllm.core.architectures import check_architecture, default_site
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

    Raises
    ------
    FailedPrecondition
        ``model_folder_invalid``, ``unsupported_architecture`` or ``unknown_site``.
    """
    config = read_config(Path(folder))
    architecture = _supported_architecture(config)
    site = site or default_site(folder, architecture, int(config["num_hidden_layers"]))
    fingerprint = model_fingerprint(folder, site)
    model, tokenizer = _load(folder, dtype, device)
    module = _site_module(model, site)
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
    )


def _supported_architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures") or ["none named"]
    check_architecture(names[0])
    missing = [key for key in ("num_hidden_layers", "max_position_embeddings") if key not in config]
    if missing:
        message = f"config.json has no {missing[0]}."
        raise FailedPrecondition(message, code="model_folder_invalid")
    return str(names[0])


def _load(folder: str, dtype: torch.dtype, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # With loading info the result is a pair, which the library's annotation leaves out.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as exc:
        message = f"the model in {folder} cannot be loaded: {exc}"
        raise FailedPrecondition(message, code="model_folder_invalid") from exc
    missing = loaded[1]["missing_keys"]
    if missing:
        # transformers fills missing weights with random numbers and only warns.
        message = f"the weights in {folder} lack {min(missing)}."
        raise FailedPrecondition(message, code="model_folder_invalid")
    return _frozen(loaded[0], torch.device(device)), tokenizer


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
    if not isinstance(module, nn.Linear):
        message = f"{site} is a {type(module).__name__}, not a linear layer."
        raise FailedPrecondition(message, code="unknown_site")
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
