"""A random LoRA adapter in the form that vLLM loads: the yardstick of what a per-request change of weights costs."""

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from horen_vllm.fingerprint import read_config

_SCALE: Final = 0.01


def write_adapter(folder: Path, model: Path, rank: int) -> Path:
    """Write an adapter of all linear layers of a Llama or Qwen2 in `model`, unless it is there."""
    if (folder / "adapter_config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = read_config(model)
    generator = torch.Generator().manual_seed(rank)
    tensors = {
        f"base_model.model.model.layers.{layer}.{name}.lora_{side}.weight": _SCALE
        * torch.randn((rank, d_in) if side == "A" else (d_out, rank), generator=generator)
        for layer in range(int(config["num_hidden_layers"]))
        for name, (d_in, d_out) in _linears(config).items()
        for side in ("A", "B")
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    described = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "bias": "none",
        "target_modules": sorted(name.rpartition(".")[2] for name in _linears(config)),
        "base_model_name_or_path": "bench",
    }
    (folder / "adapter_config.json").write_text(json.dumps(described) + "\n", encoding="utf-8")
    return folder


def _linears(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return width of input and output of a layer's linear modules by name."""
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    head = int(config.get("head_dim") or hidden // heads)
    queries, keys = heads * head, int(config["num_key_value_heads"]) * head
    return {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
