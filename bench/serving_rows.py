"""One row of the serving benchmark: a cell's rounds beside the plain server's, and whether they were what they claim.

Every round is checked by the servers' own counters: as many answers were edited as were meant to be, and as many prompt
tokens came from the prefix cache as the rules of `horen_vllm.plugin.cache_rules` allow.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.intervals import interval
from bench.serving_cells import Cell, Group
from bench.serving_load import Round, run_round
from bench.serving_sides import MODEL, Server
from bench.serving_workloads import Workload
from horen_vllm.core.query import query_window

PLAIN: Final = "plain"
_MATCHED: Final = "horen_requests_matched_total"
_HITS: Final = "vllm:prefix_cache_hits_total"
_NEAR_GOAL: Final = 0.01
"""A goal is met when the interval's lower end reaches it less this."""

Pair = dict[str, Round]


class Unexpected(RuntimeError):
    """A round that was not what it claims to be."""


@dataclass(slots=True)
class RoundNumbers:
    """Numbers of rounds that run on over all cells, so that no prompt of a workload is asked twice."""

    _next: Counter[str] = field(default_factory=Counter)

    def take(self, workload: str, count: int) -> list[int]:
        """Return the workload's next numbers."""
        first = self._next[workload]
        self._next[workload] += count
        return list(range(first, first + count))


@dataclass(frozen=True, slots=True)
class Rule:
    """What a round is made of and must find.

    Attributes
    ----------
    concurrency
        Requests at a time.
    block
        Tokens of a KV block.
    window_ratio
        Share of the prompt that a routed request computes itself.
    """

    workload: Workload
    concurrency: int
    block: int
    window_ratio: float

    @property
    def requests(self) -> int:
        """Return how many requests a round has."""
        return len(self.workload.prompts)

    @property
    def prompt_tokens(self) -> int:
        """Return how many prompt tokens a round has."""
        return sum(map(len, self.workload.prompts))

    def cached(self, *, routed: bool) -> int:
        """Return how many of a round's prompt tokens come from the cache, once the shared prefix is in it."""
        length, (start, stop) = len(self.workload.prompts[0]), self.workload.span
        # The last token of a prompt is computed in any case.
        most = start + query_window(stop - start, self.window_ratio)[0] if routed else length - 1
        return self.requests * (min(self.workload.shared, most) // self.block) * self.block


@dataclass(slots=True)
class Side:
    """One side of a comparison.

    Parameters
    ----------
    server
        Who is asked.
    cell
        What is asked; None: the base model of the plain server.
    salt
        Keeps its cached prompt blocks from the other sides that ask the same server.
    """

    server: Server
    cell: Cell | None
    salt: str
    edited: int = 0

    def ask(self, rule: Rule, number: int, *, warm: bool) -> Round:
        """Run a round.

        Raises
        ------
        RuntimeError
            When a request fails; `Unexpected`, when the counters do not say what they must.
        OSError
            When the server's counters cannot be read.
        """
        first = number * rule.requests
        models = self.cell.models(first, rule.requests) if self.cell else [MODEL] * rule.requests
        meant = self.cell.edited(first, rule.requests) if self.cell else 0
        cached = rule.cached(routed=self.cell is not None and self.cell.routed)
        self.server.rest()
        matched, hits = self.server.count(_MATCHED), self.server.count(_HITS)
        found = run_round(self.server.url, models, rule.workload, number, rule.concurrency, self.salt)
        if (fired := self.server.settled(_MATCHED, matched + meant) - matched) != meant:
            raise Unexpected(f"round {number}: {fired} answers were edited, not {meant}.")
        read = self.server.settled(_HITS, hits + (cached if warm else 0)) - hits
        # In the first round the shared prefix gets into the cache while it is asked for.
        if read > cached or (warm and read != cached):
            raise Unexpected(f"round {number}: {read} prompt tokens came from the cache, not {cached}.")
        self.edited += meant if warm else 0
        return found


def measured(
    group: Group,
    plain: Server,
    other: Server,
    rule: Rule,
    numbers: Sequence[int],
    say: Callable[[float], None] = lambda _seconds: None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a group's cells; of one that failed, with the error.

    Parameters
    ----------
    numbers
        Of the rounds; the first one warms up.
    say
        Is told how many seconds the first round of all sides took.

    Raises
    ------
    RuntimeError, OSError
        When it is the plain side that fails: then no cell can be measured.
    """
    salts = f"{group.workload}-{numbers[0]}"
    sides = {PLAIN: Side(plain, None, f"{salts}-{PLAIN}")}
    sides |= {cell.label: Side(other, cell, f"{salts}-{cell.label}") for cell in group.cells}
    pairs, errors = paired(sides, rule, numbers, say)
    for cell in group.cells:
        if cell.label in errors:
            yield failed(cell, errors[cell.label])
        else:
            yield row(cell, rule, sides[cell.label], pairs) | {"first_round": numbers[1]}


def paired(
    sides: dict[str, Side], rule: Rule, numbers: Sequence[int], say: Callable[[float], None]
) -> tuple[list[Pair], dict[str, str]]:
    """Return what all sides measured, round by round, without a first one for warming up; and who failed, and how.

    The order rotates, so that each side comes first as often as the others.
    """
    pairs: list[Pair] = []
    errors: dict[str, str] = {}
    for turn, number in enumerate(numbers):
        began, names = time.monotonic(), list(sides)
        pair: Pair = {}
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            if name in errors:
                continue
            try:
                pair[name] = sides[name].ask(rule, number, warm=turn > 0)
            except (RuntimeError, OSError) as exc:
                if name == PLAIN:
                    raise
                errors[name] = str(exc)
        pairs.append(pair)
        if turn == 0:
            say(time.monotonic() - began)
        if len(errors) == len(sides) - 1:
            break
    return pairs[1:], errors


def row(cell: Cell, rule: Rule, side: Side, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the row of a cell that was measured."""
    found = compared([(pair[PLAIN], pair[cell.label]) for pair in pairs])
    rates = {PLAIN: rule.cached(routed=False), "other": rule.cached(routed=cell.routed)}
    return {
        **goals(cell),
        "met": met(cell, found),
        "edited_share": round(side.edited / (rule.requests * len(pairs)), 4),
        "prefix_cache_hit_rates": {name: round(tokens / rule.prompt_tokens, 4) for name, tokens in rates.items()},
        **found,
    }


def failed(cell: Cell, error: str) -> dict[str, Any]:
    """Return the row of a cell that could not be measured."""
    return {**goals(cell), "met": met(cell, None), "error": error}


def goals(cell: Cell) -> dict[str, Any]:
    """Return how a row begins."""
    return {"cell": cell.label, "goal": cell.goal, "ttft_goal_ms": cell.ttft_goal_ms}


def met(cell: Cell, found: dict[str, Any] | None) -> bool | None:
    """Return whether all goals of a cell are met by what was found; None for a cell without goals."""
    if cell.goal is None:
        return None
    if found is None:
        return False
    in_time = cell.ttft_goal_ms is None or found["ttft_p50_more_ms"]["high"] <= cell.ttft_goal_ms
    return in_time and bool(found["tokens_ratio"]["low"] >= cell.goal - _NEAR_GOAL)


def compared(pairs: Sequence[tuple[Round, Round]]) -> dict[str, Any]:
    """Return medians of the pairs' ratios and differences with 95 % intervals, and the pairs (plain, other)."""

    def of(compare: Callable[[Round, Round], float]) -> dict[str, float]:
        found = interval([compare(other, plain) for plain, other in pairs])
        return {name: round(value, 4) for name, value in found.items()}

    return {
        "tokens_ratio": of(lambda other, plain: other.tokens / plain.tokens),
        "ttft_p50_more_ms": of(lambda other, plain: other.ttft_p50_ms - plain.ttft_p50_ms),
        "ttft_p99_more_ms": of(lambda other, plain: other.ttft_p99_ms - plain.ttft_p99_ms),
        "tpot_p50_ratio": of(lambda other, plain: other.tpot_p50_ms / plain.tpot_p50_ms),
        "tpot_p99_ratio": of(lambda other, plain: other.tpot_p99_ms / plain.tpot_p99_ms),
        "pairs": [{PLAIN: plain.rounded(), "other": other.rounded()} for plain, other in pairs],
    }
