"""Which steps may be replayed from CUDA graphs: never one that has to route a prompt.

Why: in a FULL graph the site's Python never runs, and vLLM replays one for a last prompt chunk of a single token.
How: the runner's choice of a graph is wrapped. Remove when: a step can ask not to be replayed from a FULL graph.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, Final

import structlog

from horen_vllm.plugin.compat import is_v2

log = structlog.get_logger(__name__)

_V2_MODULE: Final = "vllm.v1.worker.gpu.model_runner"


def downgrade_cudagraph_mode(config: Any) -> bool:
    """Give up FULL graphs of mixed batches, in which no step could route; decode steps keep theirs.

    Returns
    -------
    bool
        True when the mode was changed; call it before anything is captured.
    """
    from vllm.config import CUDAGraphMode  # noqa: PLC0415 - importing vLLM early has side effects

    compilation = config.compilation_config
    mode = compilation.cudagraph_mode
    if mode is None or mode.mixed_mode() != CUDAGraphMode.FULL:
        return False
    piecewise = compilation.splitting_ops_contain_attention()
    lowered = CUDAGraphMode.FULL_AND_PIECEWISE if piecewise else CUDAGraphMode.FULL_DECODE_ONLY
    compilation.cudagraph_mode = lowered
    log.warning("cudagraph mode lowered", asked=mode.name, used=lowered.name)
    return True


def hook_graph_dispatch(runner: Any, forbids_full: Callable[[Any], bool]) -> None:
    """Keep every step for which `forbids_full` holds out of FULL graphs.

    Parameters
    ----------
    runner
        A live V1 or V2 model runner.
    forbids_full
        Gets the step's ``SchedulerOutput``; asked after the step's new requests are known to the runner. Not asked
        for dummy runs.
    """
    step = _CurrentStep(runner)

    def forbidden() -> bool:
        return step.scheduler_output is not None and forbids_full(step.scheduler_output)

    if is_v2(runner):
        _hook_v2(runner, forbidden)
    else:
        _hook_v1(runner, forbidden)


class _CurrentStep:
    """What the runner is executing; None between steps and in dummy runs."""

    def __init__(self, runner: Any) -> None:
        self.scheduler_output: Any = None
        original = runner.execute_model

        @functools.wraps(original)
        def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            dummy = kwargs.get("dummy_run", False)
            self.scheduler_output = None if dummy else scheduler_output
            try:
                return original(scheduler_output, *args, **kwargs)
            finally:
                self.scheduler_output = None

        runner.execute_model = execute_model


def _hook_v1(runner: Any, forbidden: Callable[[], bool]) -> None:
    original = runner._is_uniform_decode

    @functools.wraps(original)
    def is_uniform_decode(*args: Any, **kwargs: Any) -> bool:
        return not forbidden() and bool(original(*args, **kwargs))

    runner._is_uniform_decode = is_uniform_decode


def _hook_v2(runner: Any, forbidden: Callable[[], bool]) -> None:
    module: Any = importlib.import_module(_V2_MODULE)
    original = module.dispatch_cg_and_sync_dp

    # The module's name and not the runner's manager: that one is made after the plugin attaches.
    @functools.wraps(original)
    def dispatch(manager: Any, num_reqs: int, num_tokens: int, uniform: int | None, *args: Any, **kwargs: Any) -> Any:
        if manager is runner.cudagraph_manager and forbidden():
            uniform = None
            # Graphs of decodes with mixed lengths are bounded by this alone, and would admit a short prompt chunk.
            if "max_query_len" in kwargs:
                kwargs["max_query_len"] = None
            if "uniform_decode" in kwargs:
                kwargs["uniform_decode"] = False
        return original(manager, num_reqs, num_tokens, uniform, *args, **kwargs)

    module.dispatch_cg_and_sync_dp = dispatch
