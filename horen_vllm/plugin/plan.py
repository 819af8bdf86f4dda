"""The plan of one engine step: which rows of the batch are pooled, routed and written. Plain integers.

With P the prompt length, s the query window's start and [done, done + n) the positions that this step computes:
rows of [max(done, s), min(done + n, P)) are pooled; pooling starts anew where done <= s; the request is routed
where done < P <= done + n; values may be written at positions >= P - 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from horen_vllm.errors import Internal
from horen_vllm.plugin.requests import RequestTable, TrackedRequest
from horen_vllm.plugin.tag import RequestTag


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One request of the step, in batch order."""

    request_id: str
    tag: RequestTag | None
    first_row: int
    """Row of the flattened batch where its tokens begin."""
    num_tokens: int
    """Tokens that this step computes."""
    num_computed: int
    """Positions that are already in the KV cache."""
    prompt_length: int


@dataclass(frozen=True, slots=True)
class PoolRange:
    """Rows [start, stop) of the batch that are added to a slot's sum."""

    slot: int
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
    def is_empty(self) -> bool:
        """Whether no tagged request has anything to do."""
        return not (self.pools or self.routes or self.writes)


def plan_step(rows: Iterable[BatchRow], requests: RequestTable) -> StepPlan:
    """Return the plan of a step, admitting the tagged requests that it schedules for the first time."""
    plan = StepPlan()
    for row in rows:
        if row.tag is None:
            continue
        tracked = requests.admit(row.request_id, row.tag, row.prompt_length)
        if tracked is not None:
            _plan_row(plan, row, tracked)
    return plan


def _plan_row(plan: StepPlan, row: BatchRow, tracked: TrackedRequest) -> None:
    assert tracked.slot is not None
    done, stop = row.num_computed, row.num_computed + row.num_tokens
    prompt = tracked.prompt_length
    if tracked.decision is not None and not tracked.in_slot:
        plan.restores.append(tracked)
    if tracked.decision is None and done < prompt:
        _plan_prompt(plan, row, tracked)
    first = max(prompt - 1, done)
    if first < stop:
        plan.writes.append((tracked.slot, row.first_row + first - done, row.first_row + row.num_tokens))


def _plan_prompt(plan: StepPlan, row: BatchRow, tracked: TrackedRequest) -> None:
    assert tracked.slot is not None
    done, stop, prompt = row.num_computed, row.num_computed + row.num_tokens, tracked.prompt_length
    window = tracked.tag.window_start(prompt)
    first, last = max(done, window), min(stop, prompt)
    if first < last:
        shift = row.first_row - done
        plan.pools.append(PoolRange(tracked.slot, first + shift, last + shift, restart=done <= window))
    if stop >= prompt:
        plan.routes.append(tracked)


def check_coverage(plan: StepPlan, sums_valid: Sequence[bool]) -> None:
    """Refuse a step that would continue a sum whose beginning was never computed (Internal)."""
    for pool in plan.pools:
        if not pool.restart and not sums_valid[pool.slot]:
            raise Internal("the query window begins inside cached KV blocks: the prefix-cache cap did not hold.")
