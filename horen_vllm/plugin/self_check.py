"""A check after warm-up that the model really calls the edit site.

Why: a compiled artefact of a run without the plugin could be loaded from vLLM's cache; it would serve, and no edit
would ever fire.
"""

from typing import Any

from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.site import EditSite


def after_warm_up(worker: Any, site: EditSite) -> None:
    """Make `worker` refuse to start when its warmed-up model does not reach `site`.

    The start then fails with FailedPrecondition ``edit_op_missing``.
    """
    original = worker.compile_or_warm_up_model

    def compile_or_warm_up_model(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        before = site.op_calls
        # A pass of its own: what ran before may have been traced, or have run before compilation. A profiling one,
        # because a single token would be replayed from a CUDA graph, where the op's Python does not run.
        worker.model_runner._dummy_run(1, is_profile=True)
        if site.op_calls == before:
            message = "the compiled model does not call horen::edit: clear vLLM's compile cache and start again."
            raise FailedPrecondition(message, code="edit_op_missing")
        return result

    worker.compile_or_warm_up_model = compile_or_warm_up_model
