"""The plan of steps: what is pooled, routed and written over a whole request's life, for random schedules."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.core.query import query_window
from horen_vllm.errors import Internal
from horen_vllm.plugin.plan import BatchRow, StepPlan, check_coverage, plan_step
from horen_vllm.plugin.requests import HeldDecision, RequestTable
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.entries import make_codebooks, make_entry, replace_all

DECISION = HeldDecision(3, 2, 1, "e1", 0.99, None, -math.inf)
RATIOS = st.sampled_from([0.01, 0.3, 0.5, 0.6, 0.99, 1.0])


def make_table(num_slots: int = 3) -> RequestTable:
    codebooks = make_codebooks()
    replace_all(codebooks, "book", 1, make_entry("e1"))
    return RequestTable(codebooks, num_slots)


def free_slots(table: RequestTable) -> list[int]:
    return sorted(table._free_slots)


def row(done: int, count: int, prompt: int, *, tag: RequestTag | None, first_row: int = 0, name: str = "r") -> BatchRow:
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
        check_coverage(plan, self.table.sums_valid)
        tracked = self.table._live["r"]
        assert tracked.slot is not None
        for pool in plan.pools:
            assert pool.slot == tracked.slot
            if pool.restart:
                self.pooled.clear()
            self.table.sums_valid[pool.slot] = True
            self.pooled.update(range(pool.start - first_row + done, pool.stop - first_row + done))
        self._check_writes(plan, done, count, first_row)
        if not self.restored_after_preemption and tracked.decision is not None:
            assert plan.restores == [tracked]
            self.restored_after_preemption = True
        if plan.routes:
            assert plan.routes == [tracked]
            assert done < self.prompt <= done + count
            window = query_window(self.prompt, self.tag.window_ratio)
            assert self.pooled == Counter(range(*window))
            self.routed += 1
            tracked.decision = DECISION

    def _check_writes(self, plan: StepPlan, done: int, count: int, first_row: int) -> None:
        written = [position - first_row + done for _, start, stop in plan.writes for position in range(start, stop)]
        assert written == [position for position in range(done, done + count) if position >= self.prompt - 1]

    def preempt(self) -> None:
        self.table.preempt("r")
        self.restored_after_preemption = False
        assert self.table._live["r"].view.pins == 1
        assert free_slots(self.table) == [0, 1, 2]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data(), prompt=st.integers(1, 40), answer=st.integers(0, 12), ratio=RATIOS)
def test_the_window_is_pooled_once_and_the_request_routed_once(
    data: st.DataObject, prompt: int, answer: int, ratio: float
) -> None:
    tag = RequestTag("book", ratio)
    life = Life(prompt, answer, tag)
    start = tag.window_start(prompt)
    done = data.draw(st.integers(0, start), label="cached")
    for _ in range(60):
        if done == life.total:
            break
        if life.table._live and data.draw(st.integers(0, 5), label="preempt") == 0:
            life.preempt()
            done = data.draw(st.integers(0, start), label="cached again")
        count = data.draw(st.sampled_from([1, 1, 2, 3, 7, life.total]), label="chunk")
        count = min(count, life.total - done)
        life.step(done, count, data.draw(st.integers(0, 9), label="row"))
        done += count
    if done == life.total:
        assert life.routed == 1
    decision = life.table._live["r"].decision
    assert (decision is DECISION) == (life.routed == 1)
    view = life.table._live["r"].view
    life.table.finish("r")
    assert view.pins == 0
    assert (len(life.table), free_slots(life.table)) == (0, [0, 1, 2])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=3),
)
def test_rows_of_a_mixed_batch_belong_to_their_requests(rows: list[tuple[int, bool]]) -> None:
    table, batch, first_row = make_table(), [], 0
    for index, (length, edited) in enumerate(rows):
        tag = RequestTag("book", 1.0) if edited else None
        batch.append(row(0, length, length, tag=tag, first_row=first_row, name=str(index)))
        first_row += length
    plan = plan_step(batch, table)
    tagged = [item for item in batch if item.tag is not None]
    assert [(pool.start, pool.stop) for pool in plan.pools] == [
        (item.first_row, item.first_row + item.num_tokens) for item in tagged
    ]
    assert len({pool.slot for pool in plan.pools}) == len(tagged)
    assert plan.is_empty == (not tagged)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(prompt=st.integers(2, 30), ratio=RATIOS, data=st.data())
def test_a_start_inside_the_window_is_refused(prompt: int, ratio: float, data: st.DataObject) -> None:
    tag = RequestTag("book", ratio)
    if tag.window_start(prompt) + 1 > prompt - 1:
        return
    done = data.draw(st.integers(tag.window_start(prompt) + 1, prompt - 1))
    table = make_table()
    plan = plan_step([row(done, 1, prompt, tag=tag)], table)
    with pytest.raises(Internal):
        check_coverage(plan, table.sums_valid)


@pytest.mark.parametrize("leave", ["preempt", "finish"])
def test_a_slot_that_changes_hands_does_not_pass_its_sum_on(leave: str) -> None:
    table, tag = make_table(num_slots=1), RequestTag("book", 1.0)
    plan_step([row(0, 3, 9, tag=tag, name="first")], table)
    table.sums_valid[0] = True
    getattr(table, leave)("first")
    plan = plan_step([row(3, 3, 9, tag=tag, name="second")], table)
    with pytest.raises(Internal):
        check_coverage(plan, table.sums_valid)


def test_a_codebook_that_arrives_later_never_enters_a_running_request() -> None:
    codebooks = make_codebooks()
    table, tag = RequestTable(codebooks, 2), RequestTag("book", 0.5)
    assert plan_step([row(0, 6, 8, tag=tag)], table).is_empty
    replace_all(codebooks, "book", 1, make_entry("e1"))
    assert plan_step([row(6, 1, 8, tag=tag)], table).is_empty
    table.preempt("r")
    assert plan_step([row(0, 8, 8, tag=tag)], table).is_empty
    table.finish("r")
    assert plan_step([row(0, 8, 8, tag=tag)], table).routes


def test_finishing_or_preempting_an_unknown_request_is_harmless() -> None:
    table = make_table()
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


def test_a_clean_request_takes_no_slot() -> None:
    table = make_table()
    assert plan_step([row(0, 5, 5, tag=None)], table).is_empty
    assert (len(table), free_slots(table)) == (0, [0, 1, 2])
