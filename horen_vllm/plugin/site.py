"""The edit site on one rank, and what it does to a step: pool, route, inject.

Shapes: T rows of the flattened batch, S slots, D_in and D_out widths of the site.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from horen_vllm.errors import Internal
from horen_vllm.kernels import dispatch
from horen_vllm.plugin.breath import STEPS
from horen_vllm.plugin.codebooks import PagedCodebooks
from horen_vllm.plugin.decisions import DecisionBatch, report, report_missing
from horen_vllm.plugin.plan import BatchRow, StepPlan, check_coverage, plan_step
from horen_vllm.plugin.queries import Ask
from horen_vllm.plugin.ranks import Ranks
from horen_vllm.plugin.requests import RequestTable, TrackedRequest
from horen_vllm.plugin.revisions import RevisionView
from horen_vllm.plugin.routing import Router
from horen_vllm.plugin.slots import SlotTables
from horen_vllm.plugin.view_groups import by_view, looked_up


class EditSite:
    """Everything that the hooked layer needs at run time.

    Parameters
    ----------
    codebooks
        The rank's codebooks.
    num_slots
        Most requests that run at once.
    positions
        The runner's device buffer of token positions [max T], int64.
    ranks
        The tensor-parallel ranks that share a decision; None for one.
    slack
        As `RequestTable` says.
    first_scores
        As `Router` says.

    Attributes
    ----------
    op_calls
        Times that the site's host code ran, in dummy passes and captures too.
    routed, routing_seconds
        Requests that were routed, and host seconds spent on it.
    """

    def __init__(
        self,
        codebooks: PagedCodebooks,
        *,
        num_slots: int,
        positions: torch.Tensor,
        ranks: Ranks | None = None,
        slack: int = 0,
        first_scores: bool = False,
    ) -> None:
        device = codebooks.store.keys.device
        self.codebooks = codebooks
        self.requests = RequestTable(codebooks, num_slots, slack)
        self.op_calls = self.routed = 0
        self.routing_seconds = 0.0
        self._positions = positions
        self._router = Router(codebooks, ranks, self._sums_of, first_scores=first_scores)
        self._slots = SlotTables(num_slots, positions.shape[0], device)
        self._sums = torch.zeros(self.requests.num_sums, codebooks.store.d_in, device=device)
        self._captures = device.type == "cuda"
        self._plan = StepPlan()
        self._pending = False
        self._fresh: list[tuple[list[TrackedRequest], DecisionBatch]] = []

    def begin_step(self, rows: Iterable[BatchRow]) -> None:
        """Plan the next forward pass; the batch's rows are in order and complete."""
        STEPS.begin()
        self._require_run()
        plan = plan_step(rows, self.requests)
        check_coverage(plan, self.requests)
        self._slots.begin_step(plan)
        for tracked in plan.restores:
            entry = tracked.decision().entry
            self._slots.enter([tracked], tracked.view.value_table[-1 if entry is None else entry][None])
        self._plan, self._pending = plan, plan.must_run

    def must_run(self) -> bool:
        """Whether the planned step is wrong unless `run` is called, as it is not in a replayed full graph."""
        return self._plan.must_run

    def clear(self) -> None:
        """Forget the plan: the next forward pass is a dummy one or a capture."""
        self._plan, self._pending = StepPlan(), False
        self._slots.begin_step(self._plan)

    def take_decisions(self) -> "FreshDecisions":
        """Return what was decided since the last call, without waiting for the device.

        Raises
        ------
        Internal
            When the planned step never reached the edit site: an answer would be wrong without anyone knowing.
        """
        self._require_run()
        fresh, self._fresh = self._fresh, []
        return FreshDecisions(fresh, self.requests.take_missing())

    def run(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Do the planned work on the site's input [T, D_in] and add values to its output [T, D_out] in place."""
        self.op_calls += 1
        self._pending = False
        if self._plan.pools:
            self._pool(inputs)
        if self._plan.routes:
            self._route(self._plan.routes)
        # Always where graphs are captured: whether a replayed step writes is not known when it is captured.
        if self._plan.writes or self._captures:
            self._inject(outputs)

    def _pool(self, inputs: torch.Tensor) -> None:
        pools, numbers = self._plan.pools, self._slots.numbers
        dispatch.pool(
            inputs,
            self._sums,
            numbers([pool.start for pool in pools]),
            numbers([pool.stop for pool in pools]),
            numbers([pool.sum for pool in pools]),
            numbers([int(pool.restart) for pool in pools]),
        )
        for pool in pools:
            self.requests.sums_valid[pool.sum] = True

    def _route(self, routes: Sequence[TrackedRequest]) -> None:
        began = time.perf_counter()
        groups = by_view(routes)
        requests = [tracked for group in groups for tracked in group.requests]
        verdict, nearest = self._router.route(groups)
        batch = DecisionBatch(verdict, nearest)
        self._slots.enter(requests, looked_up(groups, verdict.entry, _values))
        for row, tracked in enumerate(requests):
            tracked.decided = (batch, row)
            self.requests.forget_sums(tracked)
        self._fresh.append((requests, batch))
        self.routed += len(requests)
        self.routing_seconds += time.perf_counter() - began

    def _sums_of(self, asks: Sequence[Ask]) -> torch.Tensor:
        """Return sums over the tokens of some queries: the window's, less those of what a query leaves out."""
        held = [self.requests.sums_of(ask.tracked) for ask in asks]
        sums = self._sums[self._slots.numbers([numbers[0] for numbers in held])]
        masked = [ask.anchored.ranges if ask.anchored is not None else () for ask in asks]
        # One range of each query at a time: the order of a row's sum is its own.
        for turn in range(max(map(len, masked))):
            rows = [row for row, ranges in enumerate(masked) if turn < len(ranges)]
            left_out = self._slots.numbers([held[row][1 + masked[row][turn]] for row in rows])
            sums[self._slots.numbers(rows)] -= self._sums[left_out]
        return sums

    def _inject(self, outputs: torch.Tensor) -> None:
        count, tables = outputs.shape[0], self._slots
        value_row, span, chunk, rank = tables.values.unbind()
        dispatch.inject(
            outputs,
            tables.token_slot[:count],
            self._positions[:count],
            tables.answer_start,
            value_row,
            span,
            chunk,
            rank,
            self.codebooks.store.values,
        )

    def _require_run(self) -> None:
        if self._pending:
            raise Internal("a step with tagged requests ended without reaching the edit site.")


class FreshDecisions:
    """The decisions of one step, on their way to the engine core."""

    def __init__(self, fresh: list[tuple[list[TrackedRequest], DecisionBatch]], missing: dict[str, str]) -> None:
        self._fresh = fresh
        self._missing = missing

    def __bool__(self) -> bool:
        """Whether anything was decided."""
        return bool(self._fresh or self._missing)

    def reports(self) -> dict[str, dict[str, Any]]:
        """Return each decision by request id in plain JSON types, waiting for the device if it must."""
        reports = {name: report_missing(codebook) for name, codebook in self._missing.items()}
        return reports | {
            tracked.request_id: report(tracked.view, decision, tracked.window, tracked.tag.explain, tracked.subjects)
            for group, batch in self._fresh
            for tracked, decision in zip(group, batch.read(), strict=True)
        }


def _values(view: RevisionView, entries: torch.Tensor) -> torch.Tensor:
    return view.value_table[entries]
