"""Mixed load for engine tests: prompts of all lengths, two codebooks that contradict each other, and the verdict."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tests.e2e.engines import tagged
from tests.e2e.oracle import Oracle, OracleAnswer, OracleBook, OracleEntry
from tests.e2e.oracle_routing import OracleText

CODEBOOK_A = "tenants/default/codebooks/a"
CODEBOOK_B = "tenants/default/codebooks/b"
LENGTHS = (1, 2, 3, 5, 8, 9, 17, 31, 32, 33, 40, 64, 65, 96, 103, 130)
VOCABULARY = range(10, 1000)


@dataclass(frozen=True)
class Case:
    """One request: prompt ids and the codebook it asks for (None: the clean model)."""

    prompt: list[int]
    codebook: str | None
    max_tokens: int
    ratio: float = 0.6


@dataclass
class Verdict:
    """How served answers compare with the oracle's."""

    requests: int = 0
    matched: int = 0
    ties: int = 0
    wrong: list[str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.wrong = []

    def check(self, matches: float = 0.3) -> None:
        """Assert the design's bounds: nothing wrong, ties <= 0.5 %, at least this share of matches."""
        assert not self.wrong, self.wrong[:5]
        assert self.ties <= 0.005 * self.requests, (self.ties, self.requests)
        assert self.matched >= matches * self.requests, (self.matched, self.requests)


def prompts(seed: int) -> list[list[int]]:
    """Return prompts of every length in `LENGTHS`; the long ones share a prefix, as system prompts do."""
    generator = random.Random(seed)
    shared = generator.choices(VOCABULARY, k=80)
    return [
        (shared + generator.choices(VOCABULARY, k=length))[-length:]
        if length < 90
        else (shared + generator.choices(VOCABULARY, k=length))[: length - 1] + generator.choices(VOCABULARY, k=1)
        for length in LENGTHS
    ]


def books(oracle: Oracle, texts: list[list[int]], seed: int, longest_span: int = 6) -> dict[str, OracleBook]:
    """Return two codebooks with conflicting values on the same prompts, one plain, one with refinement."""
    generator = torch.Generator().manual_seed(seed)
    queries = [oracle.query(text, 0.6) for text in texts]
    width = oracle.model.config.hidden_size

    def entries(salt: int, keep: list[int]) -> tuple[OracleEntry, ...]:
        made = []
        for rank, index in enumerate(keep):
            mode, span = (("sequence", longest_span - rank % 6), ("answer", longest_span // 2), ("last", 1))[
                (rank + salt) % 3
            ]
            rows = span if mode == "sequence" else 1
            values = torch.randn(rows, width, generator=generator) * 8
            # The second key is a wording of its own: a neighbour of the first.
            noise = torch.randn(queries[index].shape, generator=generator)
            twin = torch.nn.functional.normalize(queries[index] + 0.02 * noise / noise.norm(), dim=0)
            keys = torch.stack([queries[index], twin])
            made.append(OracleEntry(f"e{salt}-{index}", 10 + rank, keys, values, mode, span))
        return tuple(made)

    half = [index for index in range(len(texts)) if index % 4 != 3]
    return {
        CODEBOOK_A: OracleBook(entries(1, half), threshold=0.97),
        CODEBOOK_B: OracleBook(entries(2, half[::-1]), threshold=0.95, gamma=0.1, steps=1),
    }


def cases(texts: list[list[int]], seed: int, rounds: int = 1) -> list[Case]:
    """Return every prompt with no codebook, with A and with B, in a shuffled order."""
    generator = random.Random(seed)
    made = [
        Case(text, codebook, generator.choice((1, 5, 12)))
        for _ in range(rounds)
        for text in texts
        for codebook in (None, CODEBOOK_A, CODEBOOK_B)
    ]
    generator.shuffle(made)
    return made


def serve(llm: Any, requests: list[Case], *, ignore_eos: bool = False) -> list[Any]:
    """Send all requests at once and return vLLM's outputs in order."""
    outputs: list[Any] = llm.generate(
        [{"prompt_token_ids": case.prompt} for case in requests],
        [tagged(case.codebook, case.ratio, max_tokens=case.max_tokens, ignore_eos=ignore_eos) for case in requests],
        use_tqdm=False,
    )
    return outputs


def compare(
    oracle: Oracle,
    served: list[Any],
    requests: list[Case],
    by_name: dict[str, OracleBook],
    *,
    revision: int = 1,
    ignore_eos: bool = False,
    read: Callable[[list[int], OracleBook], OracleText] | None = None,
) -> Verdict:
    """Let the oracle answer every request by itself and compare tokens, decision and revision.

    `read` says what a prompt's text is to a codebook.
    """
    verdict = Verdict()
    stop = -1 if ignore_eos else int(oracle.model.config.eos_token_id)
    for case, output in zip(requests, served, strict=True):
        book = by_name.get(case.codebook or "")
        text = read(case.prompt, book) if read is not None and book is not None else None
        expected = oracle.answer(case.prompt, book, case.max_tokens, stop, text=text)
        verdict.requests += 1
        verdict.matched += expected.edit_id is not None
        _judge(verdict, case, expected, output, revision)
    return verdict


def _judge(verdict: Verdict, case: Case, expected: OracleAnswer, output: Any, revision: int) -> None:
    decision = output.outputs[0].horen
    name = f"{len(case.prompt)} tokens, {case.codebook}"
    if (decision is None) != (case.codebook is None):
        verdict.wrong.append(f"{name}: decision {decision}")
        return
    if decision is not None and decision["edit_id"] != expected.edit_id:
        if expected.routing_tie:
            verdict.ties += 1
        else:
            verdict.wrong.append(f"{name}: {decision} instead of {expected.edit_id} at {expected.score}")
        return
    if decision is not None and decision["revision"] != revision:
        verdict.wrong.append(f"{name}: revision {decision['revision']}")
    tokens = list(output.outputs[0].token_ids)
    if tokens == expected.tokens:
        return
    first = next((index for index, (a, b) in enumerate(zip(tokens, expected.tokens, strict=False)) if a != b), None)
    if first is not None and expected.logit_gaps[first] < 1e-3:
        verdict.ties += 1
    else:
        verdict.wrong.append(f"{name}: {tokens} instead of {expected.tokens}")
