"""The edit site's state on one rank, and what it does to a step: pool, route, inject.

Shapes: T rows of the flattened batch, S slots, D_in and D_out widths of the site.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch

from horen_vllm.core.match import NO_ENTRY, Decision, route
from horen_vllm.core.routing import unit_queries_from_sums
from horen_vllm.core.values import NO_VALUE
from horen_vllm.errors import Internal
from horen_vllm.plugin.codebooks import PagedCodebooks, RevisionView
from horen_vllm.plugin.plan import BatchRow, StepPlan, check_coverage, plan_step
from horen_vllm.plugin.requests import HeldDecision, RequestTable, TrackedRequest


class EditSite:
    """Everything that the hooked layer needs at run time.

    Parameters
    ----------
    codebooks
        The rank's codebooks.
    num_slots
        Most requests that run at once.
    max_tokens
        Most rows of a batch.
    positions
        The runner's device buffer of token positions [>= T], int64.
    """

    def __init__(self, codebooks: PagedCodebooks, *, num_slots: int, max_tokens: int, positions: torch.Tensor) -> None:
        device = codebooks.keys.device
        self.codebooks = codebooks
        self.requests = RequestTable(codebooks, num_slots)
        self._positions = positions
        self._sums = torch.zeros(num_slots, codebooks.keys.shape[1], device=device)
        self._token_slot = torch.full((max_tokens,), -1, dtype=torch.int64, device=device)
        # Columns of the slot table: position of answer token 0, first value row, span, stride.
        self._answer_start = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._value_row = torch.full((num_slots,), NO_VALUE, dtype=torch.int64, device=device)
        self._span = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._stride = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._plan = StepPlan()
        self._pending = False
        self._fresh: dict[str, dict[str, Any]] = {}

    def begin_step(self, rows: Iterable[BatchRow]) -> None:
        """Plan the next forward pass; the batch's rows are in order and complete."""
        self._require_run()
        plan = plan_step(rows, self.requests)
        check_coverage(plan, self.requests.sums_valid)
        self._token_slot.fill_(-1)
        for slot, start, stop in plan.writes:
            self._token_slot[start:stop] = slot
        for tracked in plan.restores:
            self._enter(tracked)
        self._plan, self._pending = plan, not plan.is_empty

    def clear(self) -> None:
        """Forget the plan: the next forward pass is a dummy one."""
        self._plan, self._pending = StepPlan(), False
        self._token_slot.fill_(-1)

    def take_decisions(self) -> dict[str, dict[str, Any]]:
        """Return what was decided since the last call, by request id, in plain JSON types.

        Raises
        ------
        Internal
            When the planned step never reached the edit site: an answer would be wrong without anyone knowing.
        """
        self._require_run()
        fresh, self._fresh = self._fresh, {}
        return fresh

    def run(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Do the planned work on the site's input [T, D_in] and add values to its output [T, D_out] in place."""
        if not self._pending:
            return
        self._pending = False
        self._pool(inputs)
        for view, group in _by_view(self._plan.routes):
            self._route(view, group)
        if self._plan.writes:
            self._inject(outputs)

    def _pool(self, inputs: torch.Tensor) -> None:
        for pool in self._plan.pools:
            if pool.restart:
                self._sums[pool.slot].zero_()
            self._sums[pool.slot] += inputs[pool.start : pool.stop].float().sum(dim=0)
            self.requests.sums_valid[pool.slot] = True

    def _route(self, view: RevisionView, group: list[TrackedRequest]) -> None:
        table = self.codebooks.table(view)
        for tracked in group:
            assert tracked.slot is not None
            # One row at a time: a matrix product's rounding may depend on how many rows it has.
            query = unit_queries_from_sums(self._sums[tracked.slot][None])
            [decision] = route(query, table, view.parameters)
            tracked.decision = _held(view, decision)
            self.requests.sums_valid[tracked.slot] = False
            self._enter(tracked)
            self._fresh[tracked.request_id] = _report(view, tracked.decision)

    def _enter(self, tracked: TrackedRequest) -> None:
        decision = tracked.decision
        assert decision is not None
        self._value_row[tracked.slot] = decision.value_row
        self._span[tracked.slot] = decision.span
        self._stride[tracked.slot] = decision.stride
        self._answer_start[tracked.slot] = tracked.prompt_length - 1
        tracked.in_slot = True

    def _inject(self, outputs: torch.Tensor) -> None:
        count = outputs.shape[0]
        slots = self._token_slot[:count]
        owner = slots.clamp(min=0)
        offset = self._positions[:count] - self._answer_start[owner]
        first = self._value_row[owner]
        written = (slots >= 0) & (first != NO_VALUE) & (offset >= 0) & (offset < self._span[owner])
        # Rows without a value are not touched at all: adding zero would turn -0.0 into +0.0.
        rows = written.nonzero(as_tuple=True)[0]
        value_rows = first[rows] + offset[rows] * self._stride[owner[rows]]
        outputs[rows] += self.codebooks.values[value_rows]

    def _require_run(self) -> None:
        if self._pending:
            raise Internal("a step with tagged requests ended without reaching the edit site.")


def _by_view(routes: list[TrackedRequest]) -> list[tuple[RevisionView, list[TrackedRequest]]]:
    groups: dict[int, tuple[RevisionView, list[TrackedRequest]]] = {}
    for tracked in routes:
        groups.setdefault(id(tracked.view), (tracked.view, []))[1].append(tracked)
    return list(groups.values())


def _held(view: RevisionView, decision: Decision) -> HeldDecision:
    entry = NO_ENTRY if decision.entry is None else decision.entry
    return HeldDecision(
        value_row=int(view.value_rows[entry]),
        span=int(view.spans[entry]),
        stride=int(view.strides[entry]),
        edit_id=_edit(view, decision.entry),
        score=decision.score,
        runner_up=_edit(view, decision.runner_up),
        runner_up_score=decision.runner_up_score,
    )


def _edit(view: RevisionView, entry: int | None) -> str | None:
    return None if entry is None else view.edit_ids[entry]


def _report(view: RevisionView, decision: HeldDecision) -> dict[str, Any]:
    return {
        "codebook": view.codebook,
        "revision": view.revision,
        "edit_id": decision.edit_id,
        "score": _finite(decision.score),
        "runner_up": decision.runner_up,
        "runner_up_score": _finite(decision.runner_up_score),
        "threshold": view.parameters.threshold,
    }


def _finite(score: float) -> float | None:
    # JSON has neither infinity nor NaN; an empty codebook has no best score.
    return score if math.isfinite(score) else None
