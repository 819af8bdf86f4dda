"""The plan of steps: what is pooled, routed and written over a whole request's life, for random schedules."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.core.match import NO_ENTRY
from horen_vllm.errors import Internal
from horen_vllm.plugin.decisions import DecisionBatch
from horen_vllm.plugin.plan import BatchRow, StepPlan, check_coverage, plan_step
from horen_vllm.plugin.requests import RequestTable
from horen_vllm.plugin.tag import RequestTag
from horen_vllm.plugin.verdicts import Verdict
from tests.unit.plugin.entries import make_codebooks, make_entry, replace_all

RATIOS = st.sampled_from([0.01, 0.3, 0.5, 0.6, 0.99, 1.0])
NONE = torch.tensor([NO_ENTRY])
LOW = torch.tensor([-torch.inf])
BOUND = torch.tensor([0.9], dtype=torch.float64)
DECIDED = (DecisionBatch(Verdict(NONE, LOW, NONE, LOW, BOUND), [None]), 0)


def make_table(num_slots: int = 3) -> RequestTable:
    codebooks = make_codebooks()
    replace_all(codebooks, "book", 1, make_entry("e1"))
    return RequestTable(codebooks, num_slots)


def free_slots(table: RequestTable) -> list[int]:
    return sorted(table._free_slots)


def row(done: int, count: int, prompt: int, *, tag: RequestTag, first_row: int = 0, name: str = "r") -> BatchRow:
    return BatchRow(name, tag, first_row, count, done, prompt)


class Life:
    """One request that is computed in chunks and preempted at will; checks each step's plan as it goes."""

    def __init__(self, prompt: int, answer: int, tag: RequestTag) -> None:
        self.prompt, self.total, self.tag = prompt, prompt + answer, tag
        self.table = make_table()
        self.pooled: Counter[int] = Counter()
        self.routed = 0
        self.restored_after_preemption = True

    def step(self, done: int, count: int, first_row: int) -> None:
        plan = plan_step([row(done, count, self.prompt, tag=self.tag, first_row=first_row)], self.table)
        check_coverage(plan, self.table)
        tracked = self.table._live["r"]
        assert tracked.slot is not None
        for pool in plan.pools:
            assert pool.sum == tracked.slot
            if pool.restart:
                self.pooled.clear()
            self.table.sums_valid[pool.sum] = True
            self.pooled.update(range(pool.start - first_row + done, pool.stop - first_row + done))
        self._check_writes(plan, done, count, first_row)
        assert plan.must_run == bool(plan.pools or plan.routes)
        if not self.restored_after_preemption and tracked.decided is not None:
            assert plan.restores == [tracked]
            assert not plan.must_run
            self.restored_after_preemption = tracked.in_slot = True
        if plan.routes:
            assert plan.routes == [tracked]
            assert done < self.prompt <= done + count
            assert self.pooled == Counter(range(*self.tag.window(self.prompt)))
            self.routed += 1
            tracked.decided, tracked.in_slot, self.restored_after_preemption = DECIDED, True, True
            self.table.sums_valid[tracked.slot] = False

    def _check_writes(self, plan: StepPlan, done: int, count: int, first_row: int) -> None:
        written = [position - first_row + done for _, start, stop in plan.writes for position in range(start, stop)]
        assert written == [position for position in range(done, done + count) if position >= self.prompt - 1]

    def preempt(self) -> None:
        self.table.preempt("r")
        self.restored_after_preemption = False
        assert self.table._live["r"].view.pins == 1
        assert free_slots(self.table) == [0, 1, 2]


@st.composite
def tags(draw: st.DrawFn, prompt: int) -> RequestTag:
    """A tag whose query span is the whole prompt, or lies anywhere inside it as a chat's user turn does."""
    span = None
    if draw(st.booleans()):
        start = draw(st.integers(0, prompt - 1))
        span = (start, draw(st.integers(start + 1, prompt)))
    return RequestTag("book", draw(RATIOS), span)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), prompt=st.integers(1, 40), answer=st.integers(0, 12))
def test_the_window_is_pooled_once_and_the_request_routed_once(data: st.DataObject, prompt: int, answer: int) -> None:
    tag = data.draw(tags(prompt))
    life = Life(prompt, answer, tag)
    start = tag.window(prompt)[0]
    done = data.draw(st.integers(0, start), label="cached")
    chunks = data.draw(st.sampled_from([[1], [1, 1, 2, 3, 7, life.total]]), label="chunks")
    for _ in range(60):
        if done == life.total:
            break
        if life.table._live and data.draw(st.integers(0, 5), label="preempt") == 0:
            life.preempt()
            # A decided request pools no more and may read all of its blocks.
            most = life.total - 1 if life.routed else start
            done = data.draw(st.integers(0, min(done, most)), label="cached again")
        count = min(data.draw(st.sampled_from(chunks), label="chunk"), life.total - done)
        life.step(done, count, data.draw(st.integers(0, 9), label="row"))
        done += count
    if done == life.total:
        assert life.routed == 1
    view = life.table._live["r"].view
    assert life.table.is_undecided("r") == (life.routed == 0)
    life.table.finish("r")
    assert view.pins == 0
    assert (len(life.table), free_slots(life.table)) == (0, [0, 1, 2])


def test_a_chats_window_is_pooled_where_it_lies_and_routed_with_the_last_token() -> None:
    table, tag, pooled, routed = make_table(), RequestTag("book", 0.5, (4, 10)), [], []
    for done in range(16):
        plan = plan_step([row(done, 1, 14, tag=tag, first_row=3)], table)
        check_coverage(plan, table)
        pooled += [(done, pool.restart) for pool in plan.pools]
        routed += [done for _ in plan.routes]
        for pool in plan.pools:
            assert (pool.start, pool.stop) == (3, 4)
            table.sums_valid[pool.sum] = True
        for tracked in plan.routes:
            tracked.decided, tracked.in_slot = DECIDED, True
        assert bool(plan.writes) == (done >= 13)
    assert pooled == [(7, True), (8, False), (9, False)]
    assert routed == [13]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=3))
def test_rows_of_a_mixed_batch_belong_to_their_requests(lengths: list[tuple[int, int]]) -> None:
    table, batch, first_row = make_table(), [], 0
    for index, (length, clean_rows) in enumerate(lengths):
        batch.append(row(0, length, length, tag=RequestTag("book", 1.0), first_row=first_row, name=str(index)))
        first_row += length + clean_rows
    plan = plan_step(batch, table)
    assert [(pool.start, pool.stop) for pool in plan.pools] == [
        (item.first_row, item.first_row + item.num_tokens) for item in batch
    ]
    assert [(start, stop) for _, start, stop in plan.writes] == [(pool.stop - 1, pool.stop) for pool in plan.pools]
    assert len({pool.sum for pool in plan.pools}) == len(batch)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(prompt=st.integers(2, 30), data=st.data())
def test_a_start_inside_the_window_or_behind_it_is_refused(prompt: int, data: st.DataObject) -> None:
    tag = data.draw(tags(prompt))
    start = tag.window(prompt)[0]
    if start + 1 > prompt - 1:
        return
    done = data.draw(st.integers(start + 1, prompt - 1))
    table = make_table()
    plan = plan_step([row(done, prompt - done, prompt, tag=tag)], table)
    with pytest.raises(Internal):
        check_coverage(plan, table)


@pytest.mark.parametrize("leave", ["preempt", "finish"])
def test_a_slot_that_changes_hands_does_not_pass_its_sum_on(leave: str) -> None:
    table, tag = make_table(num_slots=1), RequestTag("book", 1.0)
    plan_step([row(0, 3, 9, tag=tag, name="first")], table)
    table.sums_valid[0] = True
    getattr(table, leave)("first")
    plan = plan_step([row(3, 3, 9, tag=tag, name="second")], table)
    with pytest.raises(Internal):
        check_coverage(plan, table)


def decided_as(entry: int) -> DecisionBatch:
    """Return a decision for entry `entry` that is still on its way to the host."""
    best = torch.tensor([entry])
    return DecisionBatch(Verdict(best, LOW, NONE, LOW, BOUND), [None])


def rows_written(table: RequestTable, positions: range) -> list[int]:
    """Return the positions, computed one a step, that a step may write."""
    tag = RequestTag("book", 1.0)
    return [done for done in positions if plan_step([row(done, 1, 4, tag=tag)], table).writes]


@pytest.mark.parametrize(("entry", "written"), [(0, [3, 4]), (NO_ENTRY, [])])
@pytest.mark.parametrize("slack", [0, 2])
def test_once_the_host_knows_the_decision_only_the_span_is_planned(entry: int, written: list[int], slack: int) -> None:
    codebooks = make_codebooks()
    replace_all(codebooks, "book", 1, make_entry("e1", span=2))
    table = RequestTable(codebooks, 1, slack)
    [tracked] = plan_step([row(0, 4, 4, tag=RequestTag("book", 1.0))], table).routes
    batch = decided_as(entry)
    tracked.decided, tracked.in_slot = (batch, 0), True
    assert rows_written(table, range(3, 9)) == [3, 4, 5, 6, 7, 8]
    batch.read()
    # Drafts that were not accepted leave a request up to `slack` positions behind what the runner says.
    late = list(range(5, 5 + slack)) if written else []
    assert rows_written(table, range(3, 9)) == written + late


def is_empty(plan: StepPlan) -> bool:
    return not (plan.pools or plan.routes or plan.restores or plan.writes)


def test_a_codebook_that_arrives_later_never_enters_a_running_request() -> None:
    codebooks = make_codebooks()
    table, tag = RequestTable(codebooks, 2), RequestTag("book", 0.5)
    assert table.is_undecided("r")
    assert is_empty(plan_step([row(0, 6, 8, tag=tag)], table))
    replace_all(codebooks, "book", 1, make_entry("e1"))
    assert is_empty(plan_step([row(6, 1, 8, tag=tag)], table))
    table.preempt("r")
    assert is_empty(plan_step([row(0, 8, 8, tag=tag)], table))
    assert not table.is_undecided("r")
    table.finish("r")
    assert plan_step([row(0, 8, 8, tag=tag)], table).routes


def test_finishing_or_preempting_an_unknown_request_is_harmless() -> None:
    table = make_table()
    table.preempt("nobody")
    table.preempt("nobody")
    table.finish("nobody")
    assert free_slots(table) == [0, 1, 2]


def test_preempting_twice_gives_the_slot_back_once() -> None:
    table = make_table()
    plan_step([row(0, 1, 4, tag=RequestTag("book", 0.5))], table)
    table.preempt("r")
    table.preempt("r")
    table.finish("r")
    assert free_slots(table) == [0, 1, 2]


def test_a_step_without_tagged_requests_plans_nothing() -> None:
    table = make_table()
    assert is_empty(plan_step([], table))
    assert (len(table), free_slots(table)) == (0, [0, 1, 2])
