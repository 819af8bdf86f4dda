"""Loading: every supported architecture, frozen, and every refusal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from horen_vllm.editor.model import load_editable_model
from horen_vllm.errors import FailedPrecondition
from horen_vllm.fingerprint import model_fingerprint

ModelFolder = Callable[[str], Path]


@pytest.fixture
def folder(model_folder: ModelFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))


def refusal(folder: Path, site: str | None = None) -> FailedPrecondition:
    with pytest.raises(FailedPrecondition) as caught:
        load_editable_model(str(folder), site)
    return caught.value


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gpt-oss"])
def test_loads_frozen_with_the_default_site(model_folder: ModelFolder, kind: str) -> None:
    editable = load_editable_model(str(model_folder(kind)))
    attention = kind == "gpt-oss"
    part = "self_attn.o_proj" if attention else "mlp.down_proj"
    assert editable.site == f"model.layers.1.{part}"
    assert (editable.d_in, editable.d_out) == (32 if attention else 48, 32)
    assert not editable.model.training
    assert not any(parameter.requires_grad for parameter in editable.model.parameters())
    assert editable.module.weight.dtype == torch.float32
    assert (editable.end_id, editable.max_length, editable.has_chat_template) == (1, 160, True)
    assert editable.fingerprint == model_fingerprint(model_folder(kind), editable.site)


def test_another_site_and_type(model_folder: ModelFolder) -> None:
    site = "model.layers.2.self_attn.o_proj"
    editable = load_editable_model(str(model_folder("llama")), site, dtype=torch.bfloat16)
    assert editable.module is editable.model.get_submodule(site)
    assert editable.module.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_refuses_a_folder_without_one_of_its_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder).code == "model_folder_invalid"


def test_refuses_a_missing_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere").code == "model_folder_invalid"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_refuses_a_damaged_file(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{")
    assert refusal(folder).code == "model_folder_invalid"


def test_refuses_weights_that_lack_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    error = refusal(folder)
    assert error.code == "model_folder_invalid"
    assert "model.layers.3.mlp.up_proj.weight" in error.message


def test_refuses_another_architecture_by_name(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    error = refusal(folder)
    assert error.code == "unsupported_architecture"
    assert "BertModel" in error.message
    assert "LlamaForCausalLM" in error.message


@pytest.mark.parametrize("site", ["model.layers.9.mlp.down_proj", "model.norm"])
def test_refuses_an_unknown_site(folder: Path, site: str) -> None:
    assert refusal(folder, site).code == "unknown_site"
