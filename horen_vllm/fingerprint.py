"""Fingerprint of a base model: what the keys of a codebook are valid for (architecture.md, *Fingerprint*).

Reads a model folder's files only; does not know transformers, vLLM or any device. Editor and server both call
it on their own copy of the folder, so equal folders give equal fingerprints on any machine.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from horen_vllm.errors import FailedPrecondition

_INDEX: Final = "model.safetensors.index.json"
_TEMPLATE: Final = "chat_template.jinja"
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
_VOLATILE: Final = frozenset({"transformers_version", "_name_or_path", "dtype", "torch_dtype"})
_SAMPLES: Final = 8
"""Tensors that are sampled beside the site's own weight."""
_SAMPLE_BYTES: Final = 65536
"""Most bytes that are read of one sampled tensor, as whole leading rows (at least one)."""


def model_fingerprint(folder: str | Path, site: str) -> str:
    """Return the sha256 (hex) of a model folder as seen from an edit site.

    It covers config.json (without fields that change with the library that wrote it), tokenizer.json, the chat
    template where there is one, the names of all tensors, the site's whole weight, and the leading bytes of a few
    tensors spread over the sorted names.

    Parameters
    ----------
    folder
        A folder with config.json, tokenizer.json and safetensors weights (one file or sharded with an index).
    site
        Module name of the edit site, such as ``model.layers.29.mlp.down_proj``.

    Raises
    ------
    FailedPrecondition
        ``model_folder_invalid``, when a file is missing or unreadable; ``unknown_site``, when the weights have
        no tensor ``{site}.weight``.
    """
    root = Path(folder)
    digest = hashlib.sha256()
    digest.update(json.dumps(_stable(read_config(root)), sort_keys=True).encode())
    digest.update(_read(root / "tokenizer.json"))
    _add_chat_template(digest, root)
    try:
        _add_weights(digest, _Weights.open(root), f"{site}.weight")
    except (SafetensorError, OSError, RuntimeError) as exc:
        message = f"the weights in {root} cannot be read: {exc}."
        raise FailedPrecondition(message, code="model_folder_invalid") from exc
    return digest.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of the folder's config.json.

    Raises
    ------
    FailedPrecondition
        ``model_folder_invalid``, when the folder or the file is missing or not a JSON object.
    """
    if not folder.is_dir():
        message = f"model folder {folder} does not exist."
        raise FailedPrecondition(message, code="model_folder_invalid")
    return _json_object(folder / "config.json")


@dataclass(frozen=True, slots=True)
class _Weights:
    """Where each tensor of a folder is stored."""

    files: dict[str, Path]
    """Tensor name to safetensors file."""

    @classmethod
    def open(cls, folder: Path) -> "_Weights":
        if (folder / _INDEX).exists():
            shards = _json_object(folder / _INDEX).get("weight_map")
            if isinstance(shards, dict):
                return cls({name: folder / str(shard) for name, shard in shards.items()})
        path = folder / "model.safetensors"
        if not path.exists():
            message = f"model folder {folder} has no safetensors weights."
            raise FailedPrecondition(message, code="model_folder_invalid")
        with safe_open(path, framework="pt") as file:
            return cls(dict.fromkeys(file.keys(), path))

    def whole(self, name: str) -> torch.Tensor:
        with safe_open(self.files[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def head(self, name: str) -> torch.Tensor:
        """Return the leading rows of a tensor, at most `_SAMPLE_BYTES` unless one row is longer."""
        with safe_open(self.files[name], framework="pt") as file:
            part = file.get_slice(name)
            shape = part.get_shape()
            if not shape or 0 in shape:
                return self.whole(name)
            row: torch.Tensor = part[:1]
            rows = max(1, _SAMPLE_BYTES // (row.numel() * row.element_size()))
            tensor: torch.Tensor = part[:rows]
        return tensor


def _add_chat_template(digest: "hashlib._Hash", folder: Path) -> None:
    """Add what chat prompts, and with them half of an edit's keys, are made with."""
    file = folder / _TEMPLATE
    if file.exists():
        digest.update(f"\n{_TEMPLATE}\n".encode() + _read(file))
    settings = folder / _TOKENIZER_CONFIG
    # The rest of this file changes with the library that wrote it.
    template = _json_object(settings).get("chat_template") if settings.exists() else None
    if template is not None:
        digest.update(f"\n{_TOKENIZER_CONFIG}\n{json.dumps(template, sort_keys=True)}".encode())


def _add_weights(digest: "hashlib._Hash", weights: _Weights, site_weight: str) -> None:
    names = sorted(weights.files)
    if site_weight not in weights.files:
        message = f"the model's weights have no {site_weight}: the site is not a linear layer of this model."
        raise FailedPrecondition(message, code="unknown_site")
    digest.update("\n".join(names).encode())
    _add_tensor(digest, site_weight, weights.whole(site_weight))
    step = max(1, (len(names) - 1) // (_SAMPLES - 1))
    for name in {names[0]: None, **dict.fromkeys(names[::step]), names[-1]: None}:
        _add_tensor(digest, name, weights.head(name))


def _add_tensor(digest: "hashlib._Hash", name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stable(item) for key, item in value.items() if key not in _VOLATILE}
    return value


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except ValueError as exc:
        message = f"{path} is not valid JSON."
        raise FailedPrecondition(message, code="model_folder_invalid") from exc
    if not isinstance(content, dict):
        message = f"{path} is not a JSON object."
        raise FailedPrecondition(message, code="model_folder_invalid")
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        message = f"model folder {path.parent} has no readable {path.name}."
        raise FailedPrecondition(message, code="model_folder_invalid") from exc
