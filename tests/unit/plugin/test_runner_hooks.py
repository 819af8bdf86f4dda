"""Both runners' hooks on an edit site: whole lives of requests, and which steps may be replayed from a full graph."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from horen_vllm.plugin.step_output import DECISIONS_ATTRIBUTE
from tests.unit.plugin.entries import used_rows
from tests.unit.plugin.runner_bench import RunnerBench, entry_for


@pytest.fixture(params=["v1", "v2"])
def bench(request: pytest.FixtureRequest) -> RunnerBench:
    return RunnerBench(request.param)


def test_a_value_is_written_over_its_span_and_nowhere_else(bench: RunnerBench) -> None:
    request, clean = bench.request("m", 5), bench.request("z", 3, codebook=None)
    bench.publish(1, entry_for(request, span=3))
    bench.step((request, 2), (clean, 3))
    bench.step((clean, 1), (request, 3))
    for _ in range(4):
        bench.step((request, 1), (clean, 1))
    assert bench.edited == 3


def test_only_steps_that_pool_or_route_are_kept_out_of_full_graphs(bench: RunnerBench) -> None:
    request, clean = bench.request("m", 3), bench.request("z", 6, codebook=None)
    bench.publish(1, entry_for(request, span=4))
    bench.step((clean, 6))
    bench.step((request, 2), (clean, 1))
    bench.step((request, 1), (clean, 1))
    bench.step((request, 1), (clean, 1))
    bench.step((request, 1))
    assert bench.replayed == [True, False, False, True, True]
    assert bench.edited == 3


def test_a_request_that_is_resumed_finds_its_value_in_a_new_slot(bench: RunnerBench) -> None:
    request, other = bench.request("m", 4), bench.request("n", 4)
    bench.publish(1, entry_for(request, span=6), entry_for(other, span=6, number=2))
    bench.step((request, 4))
    bench.step((other, 4), preempted={"m"})
    bench.publish(2)
    request.done = 2
    bench.step((request, 3), (other, 1))
    bench.step((request, 1), (other, 1))
    assert bench.edited == 1 + 1 + 3 + 2
    # Neither pools again: a resumed request's steps may be replayed from a graph.
    assert bench.replayed == [False, False, True, True]


def test_a_request_that_is_preempted_in_its_prompt_is_pooled_anew(bench: RunnerBench) -> None:
    request, other = bench.request("m", 6), bench.request("n", 3)
    bench.publish(1, entry_for(request, span=2))
    bench.step((request, 5))
    bench.publish(2, entry_for(other, span=2, number=2))
    bench.step((other, 3), preempted={"m"})
    request.done = 0
    output = bench.step((request, 6), (other, 1), output=SimpleNamespace())
    assert getattr(output, DECISIONS_ATTRIBUTE)["m"]["revision"] == 1
    assert bench.edited == 3


@pytest.mark.parametrize("preempted", [None, set()])
def test_requests_end_even_in_a_step_without_tokens(bench: RunnerBench, preempted: Any) -> None:
    request = bench.request("m", 4)
    bench.publish(1, entry_for(request, span=2))
    bench.step((request, 4))
    bench.publish(2)
    assert used_rows(bench.site.codebooks.store) == (1, 2)
    bench.step(finished={"m"}, preempted=preempted)
    assert len(bench.site.requests) == 0
    assert used_rows(bench.site.codebooks.store) == (0, 0)


def test_an_aborted_requests_name_can_be_used_again(bench: RunnerBench) -> None:
    first = bench.request("m", 4)
    bench.publish(1, entry_for(first, span=6))
    bench.step((first, 2))
    second = bench.request("m", 3)
    bench.step((second, 3), finished={"m"})
    bench.step((second, 1))
    assert bench.edited == 0
    assert len(bench.site.requests) == 1
    third = bench.request("m", 4, codebook=None)
    bench.step((third, 4), finished={"m"})
    bench.step((third, 1))
    assert len(bench.site.requests) == 0


def test_a_request_of_an_unknown_codebook_stays_clean_and_may_be_replayed(bench: RunnerBench) -> None:
    request = bench.request("m", 4)
    bench.step((request, 2))
    bench.publish(1, entry_for(request, span=6))
    request.book = None
    bench.running["m"].codebook = None
    bench.step((request, 2))
    bench.step((request, 1))
    assert bench.edited == 0
    assert bench.replayed[1:] == [True, True]


def test_a_dummy_run_between_steps_touches_nothing(bench: RunnerBench) -> None:
    request = bench.request("m", 4)
    bench.publish(1, entry_for(request, span=6))
    bench.step((request, 4))
    sums = bench.site._sums.clone()
    checked: list[bool] = []
    compute = bench.compute

    def compared(inputs: torch.Tensor, *, replayed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        clean, outputs = compute(inputs, replayed=replayed)
        checked.append(torch.equal(clean, outputs))
        return clean, outputs

    bench.compute = compared  # type: ignore[method-assign]
    runs: list[Callable[[int], Any]] = [bench.runner._dummy_run]
    if hasattr(bench.runner, "capture"):
        runs.append(bench.runner.capture)
    for run in runs:
        run(7)
    bench.compute = compute  # type: ignore[method-assign]
    assert checked == [True] * len(runs)
    assert torch.equal(bench.site._sums, sums)
    bench.step((request, 1))
    assert bench.edited == 2


def test_decisions_ride_on_the_output_of_their_step(bench: RunnerBench) -> None:
    request = bench.request("m", 4)
    bench.publish(7, entry_for(request, span=2))
    assert vars(bench.step((request, 2), output=SimpleNamespace())) == {}
    output = bench.step((request, 2), output=SimpleNamespace())
    assert getattr(output, DECISIONS_ATTRIBUTE)["m"]["edit_id"] == "e1"
    assert vars(bench.step((request, 1), output=SimpleNamespace())) == {}


def test_decisions_of_an_output_that_is_made_later_are_read_then(bench: RunnerBench) -> None:
    request = bench.request("m", 4)
    bench.publish(7, entry_for(request, span=2))
    output = bench.step((request, 4), output=SimpleNamespace(get_output=SimpleNamespace))
    bench.step((request, 1))
    bench.step(finished={"m"})
    assert not hasattr(output, DECISIONS_ATTRIBUTE)
    result = output.get_output()
    assert getattr(result, DECISIONS_ATTRIBUTE)["m"]["revision"] == 7


def test_a_step_without_output_is_passed_on(bench: RunnerBench) -> None:
    request = bench.request("m", 4)
    bench.publish(1, entry_for(request, span=2))
    assert bench.step((request, 4), output=None) is None


def test_the_v2_runners_own_state_sees_every_call() -> None:
    bench = RunnerBench("v2")
    request = bench.request("m", 4)
    bench.publish(1, entry_for(request, span=2))
    bench.step((request, 4))
    bench.step(preempted={"m"})
    bench.step((request, 1))
    bench.step(finished={"m"})
    assert bench.runner.model_state.added == ["m", "m"]
    assert bench.runner.model_state.removed == ["m"] * 4
