"""Fingerprint: what changes it, what does not, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from horen_vllm.errors import FailedPrecondition
from horen_vllm.fingerprint import model_fingerprint

SITE = "model.layers.0.mlp.down_proj"
CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 4, "nested": {"theta": 1}}


def tensors(scale: float = 1.0) -> dict[str, torch.Tensor]:
    names = [f"model.layers.{layer}.mlp.{part}.weight" for layer in range(12) for part in ("down_proj", "up_proj")]
    ramp = torch.arange(32, dtype=torch.bfloat16).reshape(4, 8)
    return {name: ramp + index for index, name in enumerate(names)} | {"scalar": torch.tensor(scale)}


def write(
    folder: Path, weights: dict[str, torch.Tensor], config: dict[str, object] | None = None, shards: int = 1
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    (folder / "tokenizer.json").write_bytes(b"{}")
    names = sorted(weights)
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    where = {name: f"model-{index % shards}.safetensors" for index, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({name: weights[name] for name in names if where[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def test_volatile_fields_and_sharding_do_not_change_it(tmp_path: Path) -> None:
    plain = model_fingerprint(write(tmp_path / "a", tensors()), SITE)
    noisy = {"torch_dtype": "bfloat16", "transformers_version": "9", "_name_or_path": "x", **CONFIG}
    assert len(plain) == 64
    assert model_fingerprint(write(tmp_path / "b", tensors(), noisy), SITE) == plain
    assert model_fingerprint(str(write(tmp_path / "c", tensors(), shards=3)), SITE) == plain


def test_site_weights_config_and_tokenizer_change_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", tensors())
    seen = {model_fingerprint(folder, SITE), model_fingerprint(folder, SITE.replace("0", "1"))}
    (folder / "tokenizer.json").write_bytes(b"{ }")
    seen.add(model_fingerprint(folder, SITE))
    seen.add(model_fingerprint(write(tmp_path / "b", tensors(), {**CONFIG, "nested": {"theta": 2}}), SITE))
    last_byte = tensors()
    last_byte[f"{SITE}.weight"][-1, -1] += 1
    seen.add(model_fingerprint(write(tmp_path / "c", last_byte), SITE))
    seen.add(model_fingerprint(write(tmp_path / "d", tensors(scale=2.0)), SITE))
    assert len(seen) == 6


def test_the_chat_template_changes_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", tensors())
    settings = folder / "tokenizer_config.json"
    seen = [model_fingerprint(folder, SITE)]
    for content in (
        {"chat_template": "T"},
        {"chat_template": "U"},
        {"chat_template": [{"name": "n", "template": "T"}]},
    ):
        settings.write_text(json.dumps(content))
        seen.append(model_fingerprint(folder, SITE))
    settings.unlink()
    for text in ("T", "U"):
        (folder / "chat_template.jinja").write_text(text)
        seen.append(model_fingerprint(folder, SITE))
    settings.write_text(json.dumps({"chat_template": "T"}))
    seen.append(model_fingerprint(folder, SITE))
    assert len(set(seen)) == len(seen) == 7


def test_the_rest_of_the_tokenizers_settings_does_not_change_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", tensors())
    settings = folder / "tokenizer_config.json"
    plain = model_fingerprint(folder, SITE)
    for content in ({"tokenizer_class": "X"}, {"chat_template": None}):
        settings.write_text(json.dumps(content))
        assert model_fingerprint(folder, SITE) == plain
    settings.write_text('{"chat_template": "T"}')
    compact = model_fingerprint(folder, SITE)
    settings.write_text('{"tokenizer_class": "X",\n  "chat_template":   "\\u0054"}')
    assert model_fingerprint(folder, SITE) == compact != plain


def test_refuses_a_site_without_weights(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        model_fingerprint(write(tmp_path / "a", tensors()), "model.layers.99.mlp.down_proj")
    assert caught.value.code == "unknown_site"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("config.json", b"[]"),
        ("config.json", b"{"),
        ("tokenizer.json", None),
        ("tokenizer_config.json", b"{"),
        ("model.safetensors", None),
        ("model.safetensors", b"[]"),
        ("model.safetensors.index.json", b"[]"),
    ],
)
def test_refuses_an_incomplete_or_damaged_folder(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = write(tmp_path / "a", tensors())
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(FailedPrecondition) as caught:
        model_fingerprint(folder, SITE)
    assert caught.value.code == "model_folder_invalid"


def test_refuses_a_missing_shard(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", tensors(), shards=2)
    (folder / "model-0.safetensors").unlink()
    with pytest.raises(FailedPrecondition) as caught:
        model_fingerprint(folder, SITE)
    assert caught.value.code == "model_folder_invalid"
