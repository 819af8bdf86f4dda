"""Loading: every supported architecture, frozen, and every refusal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from horen_vllm.editor.loading.model import load_editable_model
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


@pytest.mark.parametrize(
    ("site", "code", "said"),
    [
        ("model.layers.9.mlp.down_proj", "unknown_site", "4 layers, 0 to 3"),
        ("model.layers.4.self_attn.o_proj", "unknown_site", "4 layers, 0 to 3"),
        ("model.norm", "unsupported_site", "self_attn.o_proj"),
        ("model.layers.1.mlp.up_proj", "unsupported_site", "mlp.down_proj"),
        ("model.layers.1.mlp", "unsupported_site", "mlp.down_proj"),
        ("layers.1.mlp.down_proj", "unsupported_site", "mlp.down_proj"),
    ],
)
def test_refuses_what_is_no_edit_site(folder: Path, site: str, code: str, said: str) -> None:
    error = refusal(folder, site)
    assert (error.code, site in error.message, said in error.message) == (code, True, True)


def test_refuses_the_experts_of_gpt_oss(model_folder: ModelFolder) -> None:
    error = refusal(model_folder("gpt-oss"), "model.layers.1.mlp.down_proj")
    assert error.code == "unsupported_site"
    assert "mixture of experts" in error.message


SITE = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"weight": torch.zeros(32, 48, dtype=torch.int8), "weight_scale": torch.ones(32, 1)}, "weight (I8)"),
        ({"weight": torch.zeros(32, 48, dtype=torch.float8_e4m3fn)}, "weight (F8_E4M3)"),
        (
            {"qweight": torch.zeros(6, 32, dtype=torch.int32), "scales": torch.ones(1, 32)},
            "qweight (I32), scales (F32)",
        ),
    ],
    ids=["int8", "fp8", "gptq"],
)
def test_refuses_a_quantised_site(folder: Path, stored: dict[str, torch.Tensor], said: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"{SITE}.weight"]
    tensors |= {f"{SITE}.{name}": tensor for name, tensor in stored.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    error = refusal(folder)
    assert error.code == "unsupported_site"
    assert f"quantised: it is stored as {said}" in error.message


def test_refuses_a_site_that_loading_made_something_else_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Linear8bit(nn.Linear):
        """What a quantising loader puts in the place of a linear layer."""

    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained

    def quantising(*arguments: str, **options: object) -> object:
        loaded = load(*arguments, **options)
        loaded[0].set_submodule(SITE, Linear8bit(48, 32, bias=False))
        return loaded

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", quantising)
    error = refusal(folder)
    assert error.code == "unsupported_site"
    assert "Linear8bit" in error.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_refuses_a_site_with_numbers_that_are_none(folder: Path, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{SITE}.weight"][3, 5] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    error = refusal(folder)
    assert error.code == "model_folder_invalid"
    assert f"{SITE} has 1 values" in error.message


def test_numbers_too_large_for_the_type_are_none(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{SITE}.weight"][3, 5] = 1e6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_editable_model(str(folder))
    with pytest.raises(FailedPrecondition, match="not finite"):
        load_editable_model(str(folder), dtype=torch.float16)


def add_huge_tensor(folder: Path, gib: int) -> None:
    """Make the weights' file say that it has one more tensor, and as long as if it had."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    size = gib << 30
    header["zzz"] = {"dtype": "F16", "shape": [size // 2], "data_offsets": [len(body), len(body) + size]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    with path.open("r+b") as file:
        file.truncate(8 + len(text) + len(body) + size)


def test_refuses_a_model_that_does_not_fit(folder: Path) -> None:
    add_huge_tensor(folder, 2_000)
    error = refusal(folder)
    assert error.code == "model_too_large"
    # fp32 doubles the two bytes of the file; a twentieth and 256 MiB more.
    for part in ("memory of cpu", "4000.00 GiB in float32", "4200.25 GiB with", "GiB are left"):
        assert part in error.message


def test_the_type_decides_the_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_huge_tensor(folder, 1)
    room = int(1.5 * (1 << 30))
    monkeypatch.setattr(
        "horen_vllm.editor.loading.model_size.psutil.virtual_memory", lambda: SimpleNamespace(available=room)
    )
    error = refusal(folder)
    assert (error.code, "1.50 GiB are left" in error.message) == ("model_too_large", True)
    assert load_editable_model(str(folder), dtype=torch.bfloat16)


@pytest.mark.parametrize("gib", [1 << 15, 1 << 20])
def test_memory_that_ends_while_loading_is_told_the_same_way(
    folder: Path, gib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: torch.empty(gib << 30))
    error = refusal(folder)
    assert error.code == "model_too_large"
    assert "allocate" in error.message
