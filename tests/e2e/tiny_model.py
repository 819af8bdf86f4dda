"""Random models for what the demo model cannot show: heads that can be split over ranks, and gpt-oss."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GptOssConfig, GptOssForCausalLM, LlamaConfig, LlamaForCausalLM

_COMMON: dict[str, Any] = {
    "vocab_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def make_tiny_model(kind: str, tokenizer_folder: Path, folder: Path) -> tuple[str, str]:
    """Write a model of `MAKERS`, with another's tokenizer, to `folder`; return the folder and the edit site."""
    torch.manual_seed(3)
    model, site = MAKERS[kind]()
    model.save_pretrained(folder)
    for path in tokenizer_folder.glob("token*.json"):
        shutil.copy(path, folder / path.name)
    return str(folder), site


def _llama() -> tuple[Any, str]:
    # Wide enough that greedy answers vary from prompt to prompt.
    config = LlamaConfig(hidden_size=128, intermediate_size=256, initializer_range=0.1, **_COMMON)
    return LlamaForCausalLM(config), "model.layers.2.mlp.down_proj"  # type: ignore[no-untyped-call]


def _gpt_oss() -> tuple[Any, str]:
    # A window that most prompts outgrow.
    config = GptOssConfig(
        hidden_size=64,
        intermediate_size=64,
        head_dim=32,
        sliding_window=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        initializer_range=0.2,
        **_COMMON,
    )
    return GptOssForCausalLM(config), "model.layers.1.self_attn.o_proj"  # type: ignore[no-untyped-call]


MAKERS = {"llama": _llama, "gpt-oss": _gpt_oss}
"""By name: each makes the model and names its edit site."""
