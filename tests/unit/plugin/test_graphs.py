"""Steps that must route stay out of FULL graphs, under vLLM's own choice of a graph."""

import dataclasses
import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.plugin import graphs


@pytest.mark.parametrize(
    ("asked", "splits", "used"),
    [
        ("FULL", True, "FULL_AND_PIECEWISE"),
        ("FULL", False, "FULL_DECODE_ONLY"),
        ("FULL_AND_PIECEWISE", True, None),
        ("FULL_DECODE_ONLY", False, None),
        ("PIECEWISE", True, None),
        ("NONE", False, None),
    ],
)
def test_full_graphs_of_mixed_batches_are_given_up(asked: str, splits: bool, used: str | None) -> None:
    from vllm.config import CompilationConfig, CompilationMode, CUDAGraphMode

    ops = [*CompilationConfig._attention_ops] if splits else []
    compilation = CompilationConfig(
        mode=CompilationMode.VLLM_COMPILE, splitting_ops=ops, cudagraph_mode=CUDAGraphMode[asked]
    )
    assert graphs.downgrade_cudagraph_mode(SimpleNamespace(compilation_config=compilation)) is (used is not None)
    assert compilation.cudagraph_mode == CUDAGraphMode[used or asked]


class FirstRunner:
    """Executes a step as V1 does: it asks for the kind of batch in the middle."""

    def __init__(self) -> None:
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner

        self._is_uniform_decode = GPUModelRunner._is_uniform_decode

    def execute_model(self, scheduler_output: Any, intermediate_tensors: Any = None) -> bool:
        return self.choose(scheduler_output.num_tokens, scheduler_output.num_reqs)

    def choose(self, num_tokens: int, num_reqs: int, forced: bool | None = None) -> bool:
        return bool(
            self._is_uniform_decode(
                max_num_scheduled_tokens=num_tokens // num_reqs,
                uniform_decode_query_len=1,
                num_tokens=num_tokens,
                num_reqs=num_reqs,
                force_uniform_decode=forced,
            )
        )


def scheduled(**attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"num_tokens": 3, "num_reqs": 3, "routes": False, **attributes})


def routes(scheduler_output: Any) -> bool:
    return bool(scheduler_output.routes)


def test_v1_a_step_of_single_tokens_that_routes_is_no_uniform_decode() -> None:
    runner = FirstRunner()
    graphs.hook_graph_dispatch(runner, routes)
    assert runner.execute_model(scheduled()) is True
    assert runner.execute_model(scheduled(routes=True)) is False
    assert runner.execute_model(scheduled(num_tokens=6)) is False


def test_v1_dummy_runs_are_left_alone_also_after_a_step_that_failed() -> None:
    runner = FirstRunner()
    graphs.hook_graph_dispatch(runner, routes)
    with pytest.raises(ZeroDivisionError):
        runner.execute_model(scheduled(routes=True, num_reqs=0))
    assert runner.choose(4, 4) is True
    assert runner.choose(4, 1, forced=True) is True


@pytest.fixture
def module() -> Iterator[Any]:
    """The V2 runner's module, restored afterwards."""
    from vllm.v1.worker.gpu import model_runner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_runner, "dispatch_cg_and_sync_dp", model_runner.dispatch_cg_and_sync_dp)
        yield model_runner


def manager(*descriptors: Any) -> Any:
    """Return vLLM's manager of graphs, as if these had been captured for four tokens."""
    from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager

    made = CudaGraphManager.__new__(CudaGraphManager)
    made._graphs_captured, made._candidates = True, {(4, 0): list(descriptors)}
    made._resolve_effective_loras = lambda count: count
    return made


def graph(mode: str, **limits: Any) -> Any:
    from vllm.config import CUDAGraphMode
    from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor

    return BatchExecutionDescriptor(cg_mode=CUDAGraphMode[mode], num_tokens=4, **{"num_reqs": 4, **limits})


class SecondRunner:
    """Executes a step as V2 does: its module's function chooses the graph."""

    def __init__(self, module: Any, graphs_of_four: Any) -> None:
        self.model_state, self.cudagraph_manager, self._module = object(), graphs_of_four, module

    def execute_model(self, scheduler_output: Any, intermediate_tensors: Any = None, dummy_run: bool = False) -> str:
        return self.choose(getattr(scheduler_output, "manager", self.cudagraph_manager))

    def choose(self, chosen_from: Any) -> str:
        function = self._module.dispatch_cg_and_sync_dp
        bounds = {"max_query_len": 1} if "max_query_len" in inspect.signature(function).parameters else {}
        return str(function(chosen_from, 4, 4, 1, 1, 0, **bounds)[0].cg_mode.name)


@pytest.mark.parametrize("limits", [{"uniform_token_count": 1}, {"max_query_len": 2}], ids=["uniform", "varlen"])
def test_v2_a_step_that_routes_is_not_replayed_from_a_full_graph(module: Any, limits: dict[str, int]) -> None:
    from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor

    if not limits.keys() <= {field.name for field in dataclasses.fields(BatchExecutionDescriptor)}:
        pytest.skip("this release has no such graphs")
    piecewise = graph("PIECEWISE", num_reqs=None)
    runner = SecondRunner(module, manager(graph("FULL", **limits), piecewise))
    drafter = manager(graph("FULL", **limits), piecewise)
    graphs.hook_graph_dispatch(runner, routes)
    assert runner.execute_model(scheduled()) == "FULL"
    assert runner.execute_model(scheduled(routes=True)) == "PIECEWISE"
    assert runner.execute_model(scheduled(routes=True), dummy_run=True) == "FULL"
    assert runner.choose(runner.cudagraph_manager) == "FULL"
    assert runner.execute_model(scheduled(routes=True, manager=drafter)) == "FULL"


def test_v2_without_piecewise_graphs_such_a_step_runs_eagerly(module: Any) -> None:
    runner = SecondRunner(module, manager(graph("FULL", uniform_token_count=1)))
    graphs.hook_graph_dispatch(runner, routes)
    assert runner.execute_model(scheduled(routes=True)) == "NONE"
