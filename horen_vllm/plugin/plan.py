"""The plan of one engine step: which rows of the batch are pooled, routed and written. Plain integers.

With P the prompt length, [s, e) the query window and [done, done + n) the positions that this step computes: rows
of [max(done, s), min(done + n, e)) are pooled; pooling starts anew where done <= s; the request is routed where
done < P <= done + n; values may be written at positions >= P - 1. A masked range of the window is pooled by the same
rule into a sum of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from horen_vllm.errors import Internal
from horen_vllm.plugin.requests import RequestTable, TrackedRequest
from horen_vllm.plugin.tag import RequestTag


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One tagged request of the step, in batch order."""

    request_id: str
    tag: RequestTag
    first_row: int
    """Row of the flattened batch where its tokens begin."""
    num_tokens: int
    """Tokens that this step computes."""
    num_computed: int
    """Positions that are already in the KV cache."""
    prompt_length: int
    prompt_ids: Sequence[int] | None = field(default=None, repr=False)
    """The prompt itself, as the runner holds it; read for codebooks that read words."""


@dataclass(frozen=True, slots=True)
class PoolRange:
    """Rows [start, stop) of the batch that are added to a sum."""

    sum: int
    """Its number (`RequestTable.sums_of`)."""
    start: int
    stop: int
    restart: bool
    """Whether the sum is set to zero first."""


@dataclass(slots=True)
class StepPlan:
    """What the edit site does in this step."""

    pools: list[PoolRange] = field(default_factory=list)
    routes: list[TrackedRequest] = field(default_factory=list)
    """Requests whose last prompt token is in this step and that have no decision yet."""
    restores: list[TrackedRequest] = field(default_factory=list)
    """Requests that come back with a decision and a new slot."""
    writes: list[tuple[int, int, int]] = field(default_factory=list)
    """(slot, start, stop) rows of the batch that may receive a value."""

    @property
    def must_run(self) -> bool:
        """Whether the step is wrong unless the site's host code runs, as it does not in a replayed full graph."""
        return bool(self.pools or self.routes)


def plan_step(rows: Iterable[BatchRow], requests: RequestTable) -> StepPlan:
    """Return the plan of a step, admitting the tagged requests that it schedules for the first time."""
    plan = StepPlan()
    for row in rows:
        tracked = requests.admit(row.request_id, row.tag, row.prompt_length, row.prompt_ids)
        if tracked is not None:
            _plan_row(plan, row, tracked, requests)
    return plan


def _plan_row(plan: StepPlan, row: BatchRow, tracked: TrackedRequest, requests: RequestTable) -> None:
    assert tracked.slot is not None
    done, stop = row.num_computed, row.num_computed + row.num_tokens
    prompt = tracked.prompt_length
    if tracked.decided is not None and not tracked.in_slot:
        plan.restores.append(tracked)
    if tracked.decided is None:
        if done >= prompt:
            raise Internal("a request's prompt was computed elsewhere, so it cannot be routed.")
        _plan_prompt(plan, row, tracked, requests.sums_of(tracked))
    first = max(prompt - 1, done)
    if first < stop and tracked.writes_at(first - requests.slack):
        plan.writes.append((tracked.slot, row.first_row + first - done, row.first_row + row.num_tokens))


def _plan_prompt(plan: StepPlan, row: BatchRow, tracked: TrackedRequest, sums: Sequence[int]) -> None:
    done, stop = row.num_computed, row.num_computed + row.num_tokens
    shift = row.first_row - done
    for number, (begin, end) in zip(sums, (tracked.window, *tracked.subjects.ranges), strict=True):
        first, last = max(done, begin), min(stop, end)
        if first < last:
            plan.pools.append(PoolRange(number, first + shift, last + shift, restart=done <= begin))
    if stop >= tracked.prompt_length:
        plan.routes.append(tracked)


def check_coverage(plan: StepPlan, requests: RequestTable) -> None:
    """Refuse a step that would use a sum whose beginning, or all of it, was never computed (Internal)."""
    begun = {pool.sum for pool in plan.pools if pool.restart}
    used = [pool.sum for pool in plan.pools]
    used += [number for tracked in plan.routes for number in requests.sums_of(tracked)]
    if any(number not in begun and not requests.sums_valid[number] for number in used):
        raise Internal("the query window begins inside cached KV blocks: the prefix-cache cap did not hold.")
