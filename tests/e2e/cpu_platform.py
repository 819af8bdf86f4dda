"""Engine modes that vLLM turns off on a CPU, turned on again so that a machine without a GPU can test them."""

from typing import Any


def insist(*, backend_split: bool = False, async_scheduling: bool = False) -> None:
    """Keep what the CPU platform would change; to be called once, before the engine's configuration is made.

    Parameters
    ----------
    backend_split
        ``VLLM_COMPILE``: vLLM's own backend, which cuts the graph at the splitting ops.
    async_scheduling
        The next step is scheduled before the last one's tokens are known.
    """
    from vllm.config import CompilationMode
    from vllm.platforms.cpu import CpuPlatform

    original = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        original(cls, vllm_config)
        if backend_split:
            compilation = vllm_config.compilation_config
            compilation.mode, compilation.backend = CompilationMode.VLLM_COMPILE, "inductor"
            compilation.compile_sizes = compilation.compile_sizes or []
        if async_scheduling:
            vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
    if backend_split:
        _leave_out_cuda_pass()


def _leave_out_cuda_pass() -> None:
    from vllm.compilation.passes.utility import fix_functionalization

    # The pass names ops that only the CUDA build has, and none that a Llama on a CPU needs.
    fix_functionalization.FixFunctionalizationPass.__call__ = lambda _self, _graph: None
