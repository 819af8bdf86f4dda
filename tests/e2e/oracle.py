"""The oracle: HF transformers in fp32 that routes and writes by its own code, one request at a time.

It imports nothing of the plugin and none of the method's code: it is written from the paper's equations and the
design's rules, so that an error has to be made twice to go unseen.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from tests.e2e.oracle_routing import OracleBook, OracleEntry, OracleHit, OracleText, decided, key_of

__all__ = ["Oracle", "OracleAnswer", "OracleBook", "OracleEntry", "Span"]

CACHED_PROMPTS = 48
Span = tuple[int, int] | None


@dataclass
class OracleAnswer:
    """Greedy tokens, what was decided, and how close each choice was."""

    tokens: list[int] = field(default_factory=list)
    logit_gaps: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    edit_id: str | None = None
    best_id: str | None = None
    score: float = -math.inf
    first_score: float = -math.inf
    """Best score before refinement by one step; of other codebooks nobody may say one."""
    runner_up_score: float = -math.inf
    threshold: float = 2.0
    other_margin: float = -math.inf
    """By how much the best of the entries that did not decide exceeds its own threshold."""
    share: int = 1

    @property
    def routing_tie(self) -> bool:
        """Whether fp32 rounding may decide the route the other way."""
        close = self.score - self.threshold, self.score - self.runner_up_score, self.other_margin
        return any(abs(distance) < 1e-5 for distance in close)


@dataclass
class _CleanPrompt:
    """A prompt's clean pass: its KV cache, site inputs [P, d_in] in double precision, site outputs [P, d_out]."""

    cache: Any
    inputs: torch.Tensor
    outputs: torch.Tensor


class Oracle:
    """A model folder and the name of its edit site.

    With `cached` a prompt's clean pass is kept and answers are decoded over its KV cache; without, every token costs
    a pass over all tokens before it.
    """

    def __init__(self, folder: str, site: str, *, cached: bool = True) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.train(mode=False)
        self._site = dict(self.model.named_modules())[site]
        self._cached = cached
        self._prompts: OrderedDict[tuple[int, ...], _CleanPrompt] = OrderedDict()
        self._queries: dict[tuple[tuple[int, ...], float, Span], torch.Tensor] = {}
        # Greedy answers by prompt, entry and stop token; a longer one serves shorter requests.
        self._answers: dict[tuple[tuple[int, ...], int, int], OracleAnswer] = {}
        self._entries: list[OracleEntry] = []

    def query(self, prompt: Sequence[int], ratio: float, span: Span = None) -> torch.Tensor:
        """Return the unit query [d_in]: mean site input over the last ceil(ratio n) of the span's n tokens."""
        key = (tuple(prompt), ratio, span)
        if key not in self._queries:
            window = self._clean(key[0]).inputs[slice(*_window(prompt, ratio, span))]
            mean = window.sum(0) / window.shape[0]
            self._queries[key] = (mean / mean.norm()).float()
        return self._queries[key]

    def key(
        self, prompt: Sequence[int], book: OracleBook, text: OracleText, hit: OracleHit | None = None
    ) -> torch.Tensor:
        """Return the key of an edit of a prompt in a codebook's space, without the subject that stands at `hit`."""
        return key_of(book, self.inputs(prompt), _window(prompt, book.ratio, None), hit, text.words)

    def inputs(self, prompt: Sequence[int]) -> torch.Tensor:
        """Return the site's clean inputs [P, d_in] in double precision."""
        return self._clean(tuple(prompt)).inputs

    def output_rms(self, prompt: Sequence[int]) -> float:
        """Return the root mean square of the site's clean output over a prompt, by which values are scaled."""
        return float(self._clean(tuple(prompt)).outputs.square().mean().sqrt())

    def answer(
        self,
        prompt: Sequence[int],
        book: OracleBook | None,
        max_tokens: int,
        stop: int,
        span: Span = None,
        text: OracleText | None = None,
    ) -> OracleAnswer:
        """Generate greedily after `prompt`, which says `text`, under `book`; stops after the token `stop`."""
        answer = OracleAnswer()
        entry = self.decide(prompt, book, answer, span, text) if book is not None else None
        said = self._generate(tuple(prompt), entry, max_tokens, stop)
        answer.tokens = said.tokens[:max_tokens]
        answer.logit_gaps = said.logit_gaps[:max_tokens]
        answer.logprobs = said.logprobs[:max_tokens]
        return answer

    def decide(
        self,
        prompt: Sequence[int],
        book: OracleBook,
        answer: OracleAnswer,
        span: Span = None,
        text: OracleText | None = None,
    ) -> OracleEntry | None:
        """Route a prompt through `book`, note it in `answer`, and return the matched entry."""
        window = _window(prompt, book.ratio, span)
        contest, answer.other_margin = decided(book, self.inputs(prompt), window, text or OracleText())
        answer.threshold = contest.bound
        if not contest.ranked:
            return None
        (answer.score, _, entry), *others = contest.ranked
        answer.best_id = entry.edit_id
        if book.steps == 1:
            unrefined, _ = decided(replace(book, steps=0), self.inputs(prompt), window, text or OracleText())
            answer.first_score = unrefined.ranked[0][0]
        answer.runner_up_score = others[0][0] if others else -math.inf
        if contest.margin <= 0:
            return None
        answer.edit_id, answer.share = answer.best_id, entry.share
        return entry

    def _generate(self, prompt: tuple[int, ...], entry: OracleEntry | None, count: int, stop: int) -> OracleAnswer:
        if entry is not None:
            self._entries.append(entry)  # An id is only good while its object lives.
        key = (prompt, id(entry), stop)
        known = self._answers.get(key)
        if known is None or (len(known.tokens) < count and known.tokens[-1] != stop):
            known = OracleAnswer()
            logits_of = self._decoder(prompt, entry) if self._cached else self._recomputer(prompt, entry)
            while len(known.tokens) < count and (not known.tokens or known.tokens[-1] != stop):
                _choose(known, logits_of(known.tokens))
            self._answers[key] = known
        return known

    @torch.no_grad()
    def _clean(self, prompt: tuple[int, ...]) -> _CleanPrompt:
        known = self._prompts.pop(prompt, None)
        if known is None:
            seen: list[torch.Tensor] = []
            handle = self._site.register_forward_hook(lambda _m, args, out: seen.extend((args[0][0].double(), out[0])))
            cache = DynamicCache()
            try:
                self.model(torch.tensor([prompt]), past_key_values=cache, use_cache=True)
            finally:
                handle.remove()
            known = _CleanPrompt(cache, *seen)
        self._prompts[prompt] = known
        if len(self._prompts) > CACHED_PROMPTS:
            self._prompts.popitem(last=False)
        return known

    def _decoder(self, prompt: tuple[int, ...], entry: OracleEntry | None) -> Callable[[list[int]], torch.Tensor]:
        """Decode over the clean KV of the positions before the prompt's last token, which is computed again."""
        last = len(prompt) - 1
        cache = self._clean(prompt).cache
        if last:
            cache.crop(last - cache.get_seq_length())
        else:
            cache = DynamicCache()

        @torch.no_grad()
        def logits(said: list[int]) -> torch.Tensor:
            token = said[-1] if said else prompt[-1]
            with self._writing(entry, first=last + len(said), prompt_length=len(prompt)):
                out = self.model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            row: torch.Tensor = out.logits[0, -1]
            return row

        return logits

    def _recomputer(self, prompt: tuple[int, ...], entry: OracleEntry | None) -> Callable[[list[int]], torch.Tensor]:
        @torch.no_grad()
        def logits(said: list[int]) -> torch.Tensor:
            with self._writing(entry, first=0, prompt_length=len(prompt)):
                out = self.model(torch.tensor([[*prompt, *said]]), use_cache=False)
            row: torch.Tensor = out.logits[0, -1]
            return row

        return logits

    @contextmanager
    def _writing(self, entry: OracleEntry | None, *, first: int, prompt_length: int) -> Iterator[None]:
        """Edit the site's output while open; the pass computes positions from `first` on."""
        if entry is None:
            yield
            return

        def write(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            for row in range(output.shape[1]):
                output[0, row] = entry.write(output[0, row], first + row - (prompt_length - 1))
            return output

        handle = self._site.register_forward_hook(write)
        try:
            yield
        finally:
            handle.remove()


def _window(prompt: Sequence[int], ratio: float, span: Span) -> tuple[int, int]:
    """Return the positions of the last ceil(ratio n) tokens of the span's n."""
    start, stop = span or (0, len(prompt))
    return stop - math.ceil(ratio * (stop - start)), stop


def _choose(answer: OracleAnswer, logits: torch.Tensor) -> None:
    top = logits.topk(2)
    answer.tokens.append(int(top.indices[0]))
    answer.logit_gaps.append(float(top.values[0] - top.values[1]))
    answer.logprobs.append(float(top.values[0] - torch.logsumexp(logits, 0)))
