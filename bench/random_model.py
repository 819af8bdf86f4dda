"""A Qwen2 of some shape that nobody trained, made on the spot."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config
from transformers.utils.logging import disable_progress_bar

from horen_vllm.demo.paths import demo_model_dir

SEED: Final = 20261124
_DONE: Final = "complete.json"
"""Written last, with the shape: a folder without it is half of a model."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a random Qwen2."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    spread: float
    """Standard deviation of the weights; times the root of `hidden` it is that of the logits."""


QWEN_HALF_B: Final = Shape(layers=24, hidden=896, inner=4864, heads=14, kv_heads=2, vocabulary=151936, spread=0.05)
"""The shape of Qwen2 0.5B; with the usual spread of 0.02 no state could tell one of so many tokens for certain."""


def write_random_qwen2(folder: Path, shape: Shape) -> Path:
    """Write a Qwen2 with random weights and the demo model's tokenizer, whose ids are the first of its vocabulary.

    What a finished earlier call left there is kept.
    """
    if not _complete(folder, shape, dummy=False):
        disable_progress_bar()  # type: ignore[no-untyped-call]
        torch.manual_seed(SEED)
        model: Any = AutoModelForCausalLM.from_config(_config(shape), dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
        model.save_pretrained(folder)
        _finish(folder, shape, dummy=False)
    return folder


def write_dummy_qwen2(folder: Path, shape: Shape, site: str) -> Path:
    """Write a Qwen2's configuration and tokenizer, for servers with ``--load-format dummy``.

    Its one tensor has the name of the edit site's weight, so that the folder has a fingerprint; no server reads it.
    """
    if not _complete(folder, shape, dummy=True):
        folder.mkdir(parents=True, exist_ok=True)
        config = {**_config(shape).to_diff_dict(), "architectures": ["Qwen2ForCausalLM"], "dtype": "bfloat16"}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({f"{site}.weight": torch.zeros(1, 1, dtype=torch.bfloat16)}, folder / "model.safetensors")
        _finish(folder, shape, dummy=True)
    return folder


def _config(shape: Shape) -> Any:
    tokenizer = _tokenizer()
    return Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=shape.spread,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )


def _tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(demo_model_dir(), local_files_only=True)


def _described(shape: Shape, *, dummy: bool) -> str:
    return json.dumps({**asdict(shape), "dummy": dummy, "seed": SEED})


def _complete(folder: Path, shape: Shape, *, dummy: bool) -> bool:
    done = folder / _DONE
    return done.exists() and done.read_text(encoding="utf-8") == _described(shape, dummy=dummy)


def _finish(folder: Path, shape: Shape, *, dummy: bool) -> None:
    _tokenizer().save_pretrained(folder)
    (folder / _DONE).write_text(_described(shape, dummy=dummy), encoding="utf-8")
