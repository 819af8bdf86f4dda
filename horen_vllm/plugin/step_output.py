"""The way of fresh decisions from a rank to the engine core: an attribute of the step's output."""

from typing import Any, Final

from horen_vllm.plugin.site import EditSite, FreshDecisions

DECISIONS_ATTRIBUTE: Final = "horen_decisions"
"""Attribute of ``ModelRunnerOutput`` that carries fresh decisions, by request id."""


def hook(runner: Any, site: EditSite) -> None:
    """Wrap the runner's ``sample_tokens``, the last call of every step that computes something."""
    original = runner.sample_tokens

    def sample_tokens(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        fresh = site.take_decisions()
        if fresh and output is not None:
            _attach(output, fresh)
        return output

    runner.sample_tokens = sample_tokens


def _attach(output: Any, fresh: FreshDecisions) -> None:
    if not hasattr(output, "get_output"):
        setattr(output, DECISIONS_ATTRIBUTE, fresh.reports())
        return
    # Async scheduling: the real output is made later, on the output thread, and only there is waited for.
    original = output.get_output

    def get_output() -> Any:
        result = original()
        setattr(result, DECISIONS_ATTRIBUTE, fresh.reports())
        return result

    output.get_output = get_output
