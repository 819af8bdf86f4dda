"""The base model's folder as the command line looks at it: cheap checks, and the names that follow from it.

Reads JSON only: whether the site exists is found out by the processes that load the weights, which end with an error
of their own.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from horen_vllm.core.architectures import check_architecture, default_site
from horen_vllm.errors import FailedPrecondition, InvalidArgument

_WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A model folder that looks complete."""

    path: Path
    """Absolute."""
    name: str
    """Name under which the model is served."""
    site: str
    """Module name of the edit site."""
    architecture: str
    """First architecture that config.json names."""


def open_model_folder(folder: Path, *, name: str | None = None, site: str | None = None) -> ModelFolder:
    """Return the folder with the names to use for it.

    Parameters
    ----------
    name
        Served name; the folder's own in lower case when None.
    site
        Module name of the edit site; the paper's choice for the model when None.

    Raises
    ------
    FailedPrecondition
        ``model_folder_invalid``, when a file is missing or config.json is not what it should be;
        ``unsupported_architecture``.
    InvalidArgument
        ``invalid_name``, when the served name contains ``@`` or white space.
    """
    path = folder.expanduser().resolve()
    config = _read_config(path)
    if not any((path / file).is_file() for file in _WEIGHTS):
        raise _invalid(f"model folder {path} has no safetensors weights.")
    if not (path / "tokenizer.json").is_file():
        raise _invalid(f"model folder {path} has no tokenizer.json.")
    served = name or path.name.lower()
    if not served or "@" in served or any(character.isspace() for character in served):
        message = f"{served!r} cannot be a model's name: it must not be empty or contain '@' or spaces; use --name."
        raise InvalidArgument(message, code="invalid_name")
    architecture = _architecture(path, config)
    check_architecture(architecture)
    site = site or default_site(str(path), architecture, _layers(path, config))
    return ModelFolder(path=path, name=served, site=site, architecture=architecture)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise _invalid(f"model folder {path} does not exist.")
    try:
        config = json.loads((path / "config.json").read_bytes())
    except OSError as exc:
        raise _invalid(f"model folder {path} has no readable config.json.") from exc
    except ValueError as exc:
        raise _invalid(f"{path / 'config.json'} is not valid JSON.") from exc
    if not isinstance(config, dict):
        raise _invalid(f"{path / 'config.json'} is not a JSON object.")
    return config


def _layers(path: Path, config: dict[str, Any]) -> int:
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int):
        raise _invalid(f"{path / 'config.json'} has no num_hidden_layers.")
    return layers


def _architecture(path: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        raise _invalid(f"{path / 'config.json'} names no architecture.")
    return str(names[0])


def _invalid(message: str) -> FailedPrecondition:
    return FailedPrecondition(message, code="model_folder_invalid")
