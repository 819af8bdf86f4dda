"""The oracle: HF transformers in fp32 that routes and writes by its own code, one request at a time.

It imports nothing of the plugin and none of the method's code: it is written from the paper's equations and the
design's rules, so that an error has to be made twice to go unseen.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class OracleEntry:
    """An entry: unit keys [k, d_in], value vectors [rows, d_out], and where they are written."""

    edit_id: str
    sequence: int
    keys: torch.Tensor
    values: torch.Tensor
    mode: str
    span: int


@dataclass(frozen=True)
class OracleBook:
    """A revision of a codebook."""

    entries: tuple[OracleEntry, ...]
    threshold: float
    ratio: float = 0.6
    beta: float = 20.0
    gamma: float = 0.0
    steps: int = 0
    epsilon: float = 1e-5


@dataclass
class OracleAnswer:
    """Greedy tokens, what was decided, and how close each choice was."""

    tokens: list[int] = field(default_factory=list)
    logit_gaps: list[float] = field(default_factory=list)
    edit_id: str | None = None
    score: float = -math.inf
    runner_up_score: float = -math.inf
    threshold: float = 2.0

    @property
    def routing_tie(self) -> bool:
        """Whether fp32 rounding may decide the route the other way."""
        return abs(self.score - self.threshold) < 1e-5 or abs(self.score - self.runner_up_score) < 1e-5


class Oracle:
    """A model folder and the name of its edit site."""

    def __init__(self, folder: str, site: str) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.train(mode=False)
        self._site = dict(self.model.named_modules())[site]

    @torch.no_grad()
    def query(self, prompt: list[int], ratio: float) -> torch.Tensor:
        """Return the unit query [d_in] of a prompt: mean site input of its last ceil(ratio n) tokens."""
        seen: list[torch.Tensor] = []
        handle = self._site.register_forward_pre_hook(lambda _m, args: seen.append(args[0][0].double()))
        try:
            self.model(torch.tensor([prompt]))
        finally:
            handle.remove()
        window = seen[0][len(prompt) - math.ceil(ratio * len(prompt)) :]
        mean = window.sum(0) / window.shape[0]
        query: torch.Tensor = (mean / mean.norm()).float()
        return query

    @torch.no_grad()
    def answer(self, prompt: list[int], book: OracleBook | None, max_tokens: int, stop: int) -> OracleAnswer:
        """Generate greedily after `prompt` under `book`; stops after the token `stop`."""
        answer = OracleAnswer()
        entry = self._decide(prompt, book, answer) if book is not None else None
        tokens = list(prompt)
        while len(answer.tokens) < max_tokens:
            logits = self._last_logits(tokens, len(prompt), entry)
            top = logits.topk(2)
            answer.tokens.append(int(top.indices[0]))
            answer.logit_gaps.append(float(top.values[0] - top.values[1]))
            tokens.append(answer.tokens[-1])
            if answer.tokens[-1] == stop:
                break
        return answer

    def _decide(self, prompt: list[int], book: OracleBook, answer: OracleAnswer) -> OracleEntry | None:
        answer.threshold = book.threshold
        if not book.entries:
            return None
        keys = torch.cat([entry.keys for entry in book.entries]).double()
        query = self.query(prompt, book.ratio).double()
        for _ in range(book.steps):
            weights = torch.exp(book.beta * (keys @ query - 1))
            pulled = (weights / weights.sum()) @ keys
            pulled = pulled / pulled.norm()
            if float((pulled - query).norm()) <= book.epsilon:
                break
            query = (1 - book.gamma) * query + book.gamma * pulled
            query = query / query.norm()
        ranked = sorted(
            ((float((entry.keys.double() @ query).max()), entry.sequence, entry) for entry in book.entries),
            key=lambda item: item[:2],
            reverse=True,
        )
        answer.score = ranked[0][0]
        answer.runner_up_score = ranked[1][0] if len(ranked) > 1 else -math.inf
        if answer.score <= book.threshold:
            return None
        answer.edit_id = ranked[0][2].edit_id
        return ranked[0][2]

    def _last_logits(self, tokens: list[int], prompt_length: int, entry: OracleEntry | None) -> torch.Tensor:
        def write(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
            assert entry is not None
            output = output.clone()
            for offset in range(min(entry.span, output.shape[1] - prompt_length + 1)):
                row = offset if entry.mode == "sequence" else 0
                output[0, prompt_length - 1 + offset] += entry.values[row]
            return output

        handle = self._site.register_forward_hook(write) if entry is not None else None
        try:
            logits: torch.Tensor = self.model(torch.tensor([tokens])).logits[0, -1]
        finally:
            if handle is not None:
                handle.remove()
        return logits
