"""A random Llama whose heads can be split over ranks; the demo model has three of them."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SITE = "model.layers.2.mlp.down_proj"


def make_tiny_model(tokenizer_folder: Path, folder: Path) -> Path:
    """Write the model, with another's tokenizer, to `folder` and return it."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=1536,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        # Wide enough that greedy answers vary from prompt to prompt.
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    for path in tokenizer_folder.glob("token*.json"):
        shutil.copy(path, folder / path.name)
    return folder
