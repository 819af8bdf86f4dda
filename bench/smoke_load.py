"""The mixed load of the GPU smoke run, the codebooks that it goes through, and the verdict on what came back."""

import math
import random
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from bench.oracle_hf import HfOracle, OracleAnswer, OracleBook, OracleEntry

BOOK_A, BOOK_B = "tenants/smoke/codebooks/a", "tenants/smoke/codebooks/b"
CHUNK = 32
"""Most tokens of an engine step: longer prompts are computed in chunks."""
LENGTHS = (1, 2, 3, 5, 8, 9, 17, 31, 32, 33, 40, 64, 65, 96, 103, 130)
_SHARED = 64
_SPANS = (("sequence", 6, 1, 0), ("answer", 4, 1, 0), ("last", 1, 1, 0), ("answer", 5, 1, 4), ("sequence", 7, 3, 0))
"""Value mode, span, positions that share a vector of `sequence`, and LoRA rank, in turn."""


@dataclass(frozen=True)
class Case:
    """One request."""

    prompt: list[int]
    codebook: str | None
    max_tokens: int


@dataclass(frozen=True)
class Served:
    """What the engine answered."""

    tokens: list[int]
    decision: dict[str, Any] | None
    logprobs: bytes = b""
    """The logprobs' bits, where they were asked for."""


@dataclass
class Verdict:
    """How served answers compare with the oracle's."""

    requests: int = 0
    matched: int = 0
    changed: int = 0
    """Matched requests whose value changed the answer."""
    ties: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Nothing wrong, ties <= 0.5 %, and enough matches that mattered."""
        enough = self.matched >= 0.3 * self.requests and 2 * self.changed >= self.matched
        return not self.wrong and self.ties <= 0.005 * self.requests and enough


def prompts(seed: int = 1) -> list[list[int]]:
    """Return a prompt of each of `LENGTHS`; the long ones share a prefix, which the cache may reuse."""
    generator = random.Random(seed)
    shared = generator.choices(range(10, 1000), k=_SHARED)
    made = []
    for length in LENGTHS:
        own = generator.choices(range(10, 1000), k=length)
        made.append((shared + own)[:length] if length > _SHARED else own)
    return made


def books(oracle: HfOracle, texts: list[list[int]]) -> dict[str, OracleBook]:
    """Return two codebooks that contradict each other on three quarters of the prompts, one with refinement."""
    generator = torch.Generator().manual_seed(2)
    size = 3 * oracle.output_rms(texts[-1])
    known = [index for index in range(len(texts)) if index % 4 != 3]
    return {
        BOOK_A: OracleBook(_entries(oracle, texts, known, size, generator), threshold=0.97),
        BOOK_B: OracleBook(_entries(oracle, texts, known[::-1], size, generator), 0.95, gamma=0.1, steps=1),
    }


def _entries(
    oracle: HfOracle, texts: list[list[int]], order: list[int], size: float, generator: torch.Generator
) -> tuple[OracleEntry, ...]:
    made = []
    width = oracle.model.config.hidden_size
    for turn, index in enumerate(order):
        mode, span, chunk, rank = _SPANS[turn % len(_SPANS)]
        rows = 2 * rank or (math.ceil(span / chunk) if mode == "sequence" else 1)
        values = size * torch.randn(rows, width, generator=generator)
        if rank:
            # The weights h . A are about as large as a number of h, so the sum is as large as a direct vector.
            values[:rank] *= 1 / (size * width**0.5)
            values[rank:] *= 3 / size
        query = oracle.query(texts[index], 0.6)
        noise = torch.randn(query.shape, generator=generator)
        twin = F.normalize(query + 0.02 * noise / noise.norm(), dim=0)
        edit_id = f"{mode}-{chunk}-{rank}-{index}"
        made.append(OracleEntry(edit_id, 10 + turn, torch.stack([query, twin]), values, mode, span, rank, chunk))
    return tuple(made)


def cases(texts: list[list[int]], seed: int = 3) -> list[Case]:
    """Return every prompt for the clean model and for both codebooks, shuffled."""
    generator = random.Random(seed)
    names = (None, BOOK_A, BOOK_B)
    made = [Case(text, name, generator.choice((1, 5, 12))) for text in texts for name in names]
    generator.shuffle(made)
    return made


def judge(oracle: HfOracle, by_name: dict[str, OracleBook], asked: list[Case], served: list[Served]) -> Verdict:
    """Let the oracle answer every request and compare decision and tokens."""
    verdict = Verdict(requests=len(asked))
    for case, got in zip(asked, served, strict=True):
        book = by_name[case.codebook] if case.codebook else None
        expected = oracle.answer(case.prompt, book, case.max_tokens)
        if expected.edit_id is not None:
            verdict.matched += 1
            verdict.changed += expected.tokens != oracle.answer(case.prompt, None, case.max_tokens).tokens
        _compare(case, got, expected, verdict)
    return verdict


def _compare(case: Case, got: Served, expected: OracleAnswer, verdict: Verdict) -> None:
    name = f"{len(case.prompt)} tokens, {case.codebook}"
    if (got.decision is None) != (case.codebook is None):
        verdict.wrong.append(f"{name}: decision {got.decision}")
    elif got.decision is not None and got.decision["edit_id"] != expected.edit_id:
        if expected.margin < 1e-5:
            verdict.ties += 1
        else:
            verdict.wrong.append(f"{name}: {got.decision} instead of {expected.edit_id}")
    elif got.tokens != expected.tokens:
        pairs = enumerate(zip(got.tokens, expected.tokens, strict=False))
        first = next((index for index, (mine, theirs) in pairs if mine != theirs), None)
        if first is not None and expected.gaps[first] < 1e-3:
            verdict.ties += 1
        else:
            verdict.wrong.append(f"{name}: {got.tokens} instead of {expected.tokens}")
