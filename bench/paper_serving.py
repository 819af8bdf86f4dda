"""The paper's way to answer with edits, written plainly from its text: a wrapped layer in HF's `generate`, batch 1.

Section 2.2: the query is the direction of the averaged layer inputs of the prompt's last n %. Section 2.3, eq. 2-3 and
Alg. 1: refinement and match read all keys three times, qK^T, pK and q'K^T. Section 2.4: where an entry matches, its
value is added at every answer token. The layer is wrapped, so all of this happens in every forward pass; what the
server does once in a request's life is done once a token here. `generate` keeps its cache of keys and values, which
the paper does not speak of and its released evaluation switches off; the query of the prompt is then kept, too.

What the server is measured against, so it shares neither routing nor injection with it.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.query import query_window


@dataclass(frozen=True, slots=True)
class PlainBook:
    """A codebook of one key and one value vector an entry.

    Attributes
    ----------
    keys
        [N, D] float32, unit rows.
    values
        [N, H] float32.
    """

    keys: torch.Tensor
    values: torch.Tensor


def plain_route(query: torch.Tensor, keys: torch.Tensor, rule: MethodParameters) -> int | None:
    """Return the entry that a unit query [D] matches among keys [N, D], by Alg. 1; None for no match."""
    if keys.shape[0] == 0:
        return None
    for _ in range(rule.steps):
        weights = torch.softmax(rule.beta * (query @ keys.T), dim=-1)
        target = F.normalize(weights @ keys, dim=-1)
        if float((target - query).norm()) <= rule.epsilon:
            break
        query = F.normalize((1.0 - rule.gamma) * query + rule.gamma * target, dim=-1)
    scores = query @ keys.T
    best = int(scores.argmax())
    return best if float(scores[best]) > rule.threshold else None


class PlainLayer(nn.Module):
    """A linear layer with a codebook around it; it serves one request at a time.

    Parameters
    ----------
    linear
        What it wraps.
    rule
        Window, refinement and threshold.

    Attributes
    ----------
    book
        What it routes through; None: nothing, it is the wrapped layer alone.
    """

    def __init__(self, linear: nn.Module, rule: MethodParameters) -> None:
        super().__init__()
        self.linear = linear
        self.book: PlainBook | None = None
        self._rule = rule
        self._prompt = 0
        self._seen = 0
        self._query: torch.Tensor | None = None
        self.chosen: list[int | None] = []
        self.routing_seconds = 0.0

    def begin(self, prompt_length: int) -> None:
        """Note that the next forward pass begins with a prompt of so many tokens."""
        self._prompt, self._seen, self._query = prompt_length, 0, None
        self.chosen, self.routing_seconds = [], 0.0

    def query(self) -> torch.Tensor:
        """Return the unit query [D] float32 of the prompt that was seen last."""
        assert self._query is not None, "a prompt has been seen"
        return self._query

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs [1, T, H] for inputs [1, T, D], with the matched value at the answer's positions."""
        outputs: torch.Tensor = self.linear(inputs)
        # With a cache the later passes see one token each, without one all of them again.
        whole = self._seen == 0 or inputs.shape[1] > 1
        first = 0 if whole else self._seen
        self._seen = first + inputs.shape[1]
        if whole:
            start, stop = query_window(self._prompt, self._rule.window_ratio)
            self._query = F.normalize(inputs[0, start:stop].float().mean(dim=0), dim=-1)
        if self.book is None:
            return outputs
        began = time.perf_counter()
        entry = plain_route(self.query(), self.book.keys, self._rule)
        self.routing_seconds += time.perf_counter() - began
        self.chosen.append(entry)
        if entry is None:
            return outputs
        answer = max(0, self._prompt - 1 - first)
        value = self.book.values[entry].to(outputs.dtype)
        return torch.cat([outputs[:, :answer], outputs[:, answer:] + value], dim=1)


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """What the loop answered.

    Attributes
    ----------
    tokens
        Token ids of the answer.
    chosen
        The entry of each forward pass.
    seconds
        From the prompt to the last token.
    routing_seconds
        Of these, what was spent on routing, in all passes.
    """

    tokens: list[int]
    chosen: list[int | None]
    seconds: float
    routing_seconds: float


class PlainServer:
    """A causal language model of HF transformers with its edit site wrapped.

    Parameters
    ----------
    model
        The model, whose module `site` is replaced.
    site
        Module name of the layer.
    rule
        Parameters of the codebook.
    cache
        Whether `generate` keeps keys and values of earlier tokens.
    """

    def __init__(self, model: Any, site: str, rule: MethodParameters, *, cache: bool = True) -> None:
        self._model = model.eval()
        # Answers have the length that is asked for.
        self._model.generation_config.eos_token_id = None
        self._cache = cache
        parent, _, name = site.rpartition(".")
        self.layer = PlainLayer(model.get_submodule(site), rule)
        setattr(model.get_submodule(parent), name, self.layer)

    @property
    def width(self) -> int:
        """Width of the layer's output, and so of a value."""
        return int(self._model.config.hidden_size)

    @torch.inference_mode()
    def query(self, prompt: Sequence[int]) -> torch.Tensor:
        """Return a prompt's unit query [D] float32: what an edit of this prompt would store as its key."""
        with self.without_book():
            self.layer.begin(len(prompt))
            self._model(input_ids=torch.tensor([list(prompt)]), use_cache=False)
        return self.layer.query().clone()

    @torch.inference_mode()
    def output_rms(self, prompt: Sequence[int]) -> float:
        """Return the root mean square of the layer's outputs over a prompt."""
        seen: list[torch.Tensor] = []
        handle = self.layer.linear.register_forward_hook(lambda _module, _args, output: seen.append(output))
        self.query(prompt)
        handle.remove()
        return float(seen[0].float().square().mean().sqrt())

    @torch.inference_mode()
    def weights_seconds(self) -> float:
        """Return how long it takes to multiply every weight matrix with one vector: no token can take less here."""
        matrices = [weights for weights in self._model.parameters() if weights.ndim == 2]
        vectors = {width: torch.ones(1, width, dtype=self._model.dtype) for width in {it.shape[1] for it in matrices}}
        began = time.perf_counter()
        for weights in matrices:
            F.linear(vectors[weights.shape[1]], weights)
        return time.perf_counter() - began

    @torch.inference_mode()
    def answer(self, prompt: Sequence[int], tokens: int) -> PlainAnswer:
        """Return the greedy answer of so many tokens to one prompt."""
        self.layer.begin(len(prompt))
        ids = torch.tensor([list(prompt)])
        began = time.perf_counter()
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            use_cache=self._cache,
            pad_token_id=0,
        )
        seconds = time.perf_counter() - began
        return PlainAnswer(output[0, len(prompt) :].tolist(), self.layer.chosen, seconds, self.layer.routing_seconds)

    @contextmanager
    def without_book(self) -> Iterator[None]:
        """Serve the clean model within the block."""
        book, self.layer.book = self.layer.book, None
        try:
            yield
        finally:
            self.layer.book = book
