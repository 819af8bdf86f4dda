"""Hooks of the V1 runner on a double: order of the batch, ends of requests, decisions on outputs."""

from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin import runner_v1
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.tag import RequestTag


class Site:
    """Writes down what the hooks tell it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.rows: list[BatchRow] = []
        self.decisions: dict[str, dict[str, Any]] = {}
        self.requests = SimpleNamespace(
            finish=lambda name: self.calls.append(("finish", name)),
            preempt=lambda name: self.calls.append(("preempt", name)),
        )

    def begin_step(self, rows: Any) -> None:
        self.rows = list(rows)

    def clear(self) -> None:
        self.calls.append("clear")

    def take_decisions(self) -> dict[str, dict[str, Any]]:
        return self.decisions


class Runner:
    """Two requests in a batch whose tables are longer than it."""

    def __init__(self, output: Any = None) -> None:
        self.output = output
        tagged = SimpleNamespace(extra_args=RequestTag("book", 0.5).to_extra_args())
        self.requests = {"x": SimpleNamespace(sampling_params=tagged), "y": SimpleNamespace(sampling_params=None)}
        self.input_batch = SimpleNamespace(
            num_reqs=2, req_ids=["x", "y", "gone"], num_computed_tokens_cpu=[4, 0, 9], num_prompt_tokens=[7, 5, 9]
        )

    def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: Any) -> str:
        return "prepared"

    def execute_model(self, scheduler_output: Any, *args: Any) -> str:
        return "executed"

    def _dummy_run(self, num_tokens: int) -> int:
        return num_tokens

    def sample_tokens(self, grammar_output: Any) -> Any:
        return self.output


def hooked(output: Any = None) -> tuple[Any, Site]:
    runner, site = Runner(output), Site()
    runner_v1.hook(runner, site)  # type: ignore[arg-type]
    return runner, site


def test_the_batch_is_described_in_order_and_the_result_passes() -> None:
    runner, site = hooked()
    assert runner._prepare_inputs(None, [3, 5]) == "prepared"
    assert site.rows == [
        BatchRow("x", RequestTag("book", 0.5), 0, 3, 4, 7),
        BatchRow("y", None, 3, 5, 0, 5),
    ]


@pytest.mark.parametrize("preempted", [None, set(), {"p"}])
def test_requests_end_even_in_a_step_without_tokens(preempted: set[str] | None) -> None:
    runner, site = hooked()
    step = SimpleNamespace(finished_req_ids={"f"}, preempted_req_ids=preempted)
    assert runner.execute_model(step) == "executed"
    assert site.calls == [("finish", "f"), *(("preempt", name) for name in preempted or ())]


def test_a_dummy_run_clears_the_plan_first() -> None:
    runner, site = hooked()
    assert runner._dummy_run(17) == 17
    assert site.calls == ["clear"]


def test_decisions_ride_on_the_output() -> None:
    runner, site = hooked(SimpleNamespace())
    assert vars(runner.sample_tokens(None)) == {}
    site.decisions = {"x": {"edit_id": "e"}}
    assert runner.sample_tokens(None).horen_decisions == {"x": {"edit_id": "e"}}


def test_decisions_ride_on_an_output_that_is_made_later() -> None:
    runner, site = hooked(SimpleNamespace(get_output=SimpleNamespace))
    site.decisions = {"x": {"edit_id": None}}
    output = runner.sample_tokens(None)
    assert not hasattr(output, "horen_decisions")
    assert output.get_output().horen_decisions == {"x": {"edit_id": None}}


def test_a_step_without_output_is_passed_on() -> None:
    runner, site = hooked(None)
    site.decisions = {"x": {}}
    assert runner.sample_tokens(None) is None


def test_a_runner_with_another_signature_is_refused() -> None:
    class Changed(Runner):
        def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: Any, more: Any = None) -> str:
            return "changed"

    with pytest.raises(FailedPrecondition):
        runner_v1.hook(Changed(), Site())  # type: ignore[arg-type]
