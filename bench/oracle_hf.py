"""A random Llama made on the spot, and what it must answer: HF transformers in fp32, one request at a time.

Written from the method's equations; it shares no code with what it checks.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class Shape:
    """Size of a Llama."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def site(self) -> str:
        """The edit site's module name: as in the paper, the third layer from the end."""
        return f"model.layers.{self.layers - 3}.mlp.down_proj"

    def config(self) -> LlamaConfig:
        """Return the HF configuration; the large spread of weights keeps greedy choices apart."""
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=1024,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )


TINY = Shape(layers=4, hidden=256, inner=640, heads=4, kv_heads=2, vocabulary=1024)
LLAMA_8B = Shape(layers=32, hidden=4096, inner=14336, heads=32, kv_heads=8, vocabulary=128256)


def write_random_model(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """Write a model with random fp32 weights and no tokenizer."""
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM
    model(shape.config()).save_pretrained(folder)
    return folder


def write_dummy_model(folder: Path, shape: Shape) -> Path:
    """Write the configuration alone, for ``load_format="dummy"``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**shape.config().to_diff_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class OracleEntry:
    """An entry: unit keys [k, D], value vectors [rows, H] or LoRA factors [2r, H], and where they are written."""

    edit_id: str
    sequence: int
    keys: torch.Tensor
    values: torch.Tensor
    mode: str
    span: int
    rank: int = 0
    chunk: int = 1
    """Positions that share a vector of `sequence`."""

    def written(self, output: torch.Tensor, offset: int) -> torch.Tensor:
        """Return the site's output [H] at answer position `offset` with the value added."""
        if self.rank:
            return output + (output @ self.values[: self.rank].T) @ self.values[self.rank :]
        return output + self.values[offset // self.chunk if self.mode == "sequence" else 0]


@dataclass(frozen=True)
class OracleBook:
    """A codebook."""

    entries: tuple[OracleEntry, ...]
    threshold: float
    gamma: float = 0.0
    steps: int = 0
    ratio: float = 0.6
    beta: float = 20.0
    epsilon: float = 1e-5


@dataclass
class OracleAnswer:
    """Greedy tokens, the decision, and how close each choice was."""

    tokens: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    edit_id: str | None = None
    margin: float = math.inf
    """Distance of the score from the threshold or from the runner-up's, whichever is less."""


class HfOracle:
    """The model in `folder` with its edit site."""

    def __init__(self, folder: Path, site: str) -> None:
        self.model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._site = dict(self.model.named_modules())[site]

    @torch.no_grad()
    def query(self, prompt: list[int], ratio: float) -> torch.Tensor:
        """Return the unit query [D]: mean site input of the prompt's last ceil(ratio n) tokens."""
        seen: list[torch.Tensor] = []
        handle = self._site.register_forward_pre_hook(lambda _module, args: seen.append(args[0][0].double()))
        self.model(torch.tensor([prompt]))
        handle.remove()
        mean = seen[0][-math.ceil(ratio * len(prompt)) :].mean(0)
        query: torch.Tensor = (mean / mean.norm()).float()
        return query

    @torch.no_grad()
    def output_rms(self, prompt: list[int]) -> float:
        """Return the rms of the site's output over `prompt`, the size that a value must have to matter."""
        seen: list[torch.Tensor] = []
        handle = self._site.register_forward_hook(lambda _module, _args, output: seen.append(output))
        self.model(torch.tensor([prompt]))
        handle.remove()
        return float(seen[0].square().mean().sqrt())

    @torch.no_grad()
    def answer(self, prompt: list[int], book: OracleBook | None, max_tokens: int) -> OracleAnswer:
        """Decide and generate greedily."""
        answer = OracleAnswer()
        entry = self._decide(prompt, book, answer) if book is not None else None
        for _ in range(max_tokens):
            top = self._logits([*prompt, *answer.tokens], len(prompt) - 1, entry).topk(2)
            answer.tokens.append(int(top.indices[0]))
            answer.gaps.append(float(top.values[0] - top.values[1]))
        return answer

    def _decide(self, prompt: list[int], book: OracleBook, answer: OracleAnswer) -> OracleEntry | None:
        keys = torch.cat([entry.keys for entry in book.entries]).double()
        query = self.query(prompt, book.ratio).double()
        for _ in range(book.steps):
            pull = torch.softmax(book.beta * keys @ query, 0) @ keys
            pull = pull / pull.norm()
            if float((pull - query).norm()) <= book.epsilon:
                break
            query = (1 - book.gamma) * query + book.gamma * pull
            query = query / query.norm()
        scored = [(float((entry.keys.double() @ query).max()), entry.sequence, entry) for entry in book.entries]
        ranked = sorted(scored, key=lambda row: row[:2], reverse=True)
        score, _, best = ranked[0]
        answer.margin = min(abs(score - book.threshold), *(score - other for other, _, _ in ranked[1:2]))
        if score <= book.threshold:
            return None
        answer.edit_id = best.edit_id
        return best

    def _logits(self, tokens: list[int], first: int, entry: OracleEntry | None) -> torch.Tensor:
        def write(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
            assert entry is not None
            output = output.clone()
            for offset in range(min(entry.span, output.shape[1] - first)):
                output[0, first + offset] = entry.written(output[0, first + offset], offset)
            return output

        handle = self._site.register_forward_hook(write) if entry is not None else None
        logits: torch.Tensor = self.model(torch.tensor([tokens])).logits[0, -1]
        if handle is not None:
            handle.remove()
        return logits
