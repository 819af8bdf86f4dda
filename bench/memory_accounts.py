"""What an entry should cost by formula: the paper's own accounting, and what the same bytes hold as a KV cache."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from horen_vllm.demo.paths import demo_model_dir

MIB: Final = 1 << 20
PAPER_SOURCE: Final = "arXiv 2605.08143, appendix E.4 (memory scaling) and G.3 (LoRA, r = 4)"
PAPER_PRINTS: Final = {
    "value": {"entries": 1000, "parameters": 4_090_000, "mb_in_fp16": 16},
    "lora": {"entries": 1000, "parameters": 32_640_000, "mb_in_fp16": 65},
}
"""What the paper prints for LLaMA-3.1-8B, d = 4096."""
PAPER_REMARK: Final = (
    "The paper counts trainable parameters, so no keys, although a key of an 8B model's down_proj has 14,336 numbers; "
    "4.09 M parameters in fp16 are 8 MB, not 16."
)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides about memory."""

    name: str
    layers: int
    d_in: int
    """Width of the edit site's input, and so of a raw key."""
    d_out: int
    """Width of the edit site's output, and so of a value vector."""
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    """In which the server holds values and the KV cache."""

    @property
    def kv_bytes_a_token(self) -> int:
        """Bytes of one token's keys and values in all layers, on all ranks together."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


LLAMA_8B: Final = ModelShape(
    "8B (Llama 3.1)", layers=32, d_in=14336, d_out=4096, kv_heads=8, head_dim=128, dtype=torch.bfloat16
)


def demo_shape() -> ModelShape:
    """Return the shape of the demo model, which is served in float32 on a CPU."""
    config: dict[str, Any] = json.loads((Path(demo_model_dir()) / "config.json").read_text(encoding="utf-8"))
    return ModelShape(
        "demo",
        layers=config["num_hidden_layers"],
        d_in=config["intermediate_size"],
        d_out=config["hidden_size"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        dtype=torch.float32,
    )


def paper_parameters(entries: int, d_out: int, rank: int = 0) -> int:
    """Return the parameters that the paper counts: d an entry, or 2 r d with a LoRA value (appendix G.3)."""
    return entries * d_out * (2 * rank or 1)


def paper_entry(shape: ModelShape, rank: int = 0) -> dict[str, int]:
    """Return the paper's bytes an entry in fp16: what it counts, and the same with the key that it stores beside."""
    counted = torch.float16.itemsize * paper_parameters(1, shape.d_out, rank)
    return {"counted": counted, "with_its_key": counted + torch.float16.itemsize * shape.d_in}


def kv_tokens(shape: ModelShape, size: float) -> float:
    """Return how many tokens of KV cache take `size` bytes."""
    return size / shape.kv_bytes_a_token
