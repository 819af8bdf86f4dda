"""The last step of a decision's way, in the process that calls the engine: onto each choice of a response.

Why: the choices of one request (``n`` > 1) are requests of their own to the engine, may be admitted under different
revisions, and share one ``RequestOutput`` only in the end, which has room for one decision.
"""

import functools
from collections.abc import Iterable
from typing import Any, Final

from horen_vllm.plugin.tag import RESULT_KEY

CHOICE_ATTRIBUTE: Final = "horen"
"""Attribute of ``CompletionOutput``: the choice's decision, or None."""
_HELD: Final = "_horen_decision"


def install() -> None:
    """Wrap the methods that make a choice and the one that merges outputs; once a process."""
    from vllm.outputs import RequestOutput  # noqa: PLC0415
    from vllm.v1.engine.output_processor import RequestState  # noqa: PLC0415

    make, new, add = RequestState.make_request_output, RequestState._new_completion_output, RequestOutput.add

    @functools.wraps(make)
    def make_request_output(self: Any, *args: Any, **kwargs: Any) -> Any:
        decision = _decision(args, kwargs)
        if decision is not None:
            setattr(self, _HELD, decision)
        return make(self, *args, **kwargs)

    @functools.wraps(new)
    def new_completion_output(self: Any, *args: Any, **kwargs: Any) -> Any:
        completion = new(self, *args, **kwargs)
        setattr(completion, CHOICE_ATTRIBUTE, getattr(self, _HELD, None))
        return completion

    @functools.wraps(add)
    def add_output(self: Any, next_output: Any, *args: Any, **kwargs: Any) -> None:
        add(self, next_output, *args, **kwargs)
        _hand_over(next_output.outputs, self.outputs)

    RequestState.make_request_output = make_request_output
    RequestState._new_completion_output = new_completion_output
    RequestOutput.add = add_output


def _hand_over(late: Iterable[Any], merged: Iterable[Any]) -> None:
    # A streamed choice that nobody has read yet is merged into its earlier output, which came before the decision.
    decisions = {choice.index: getattr(choice, CHOICE_ATTRIBUTE, None) for choice in late}
    for choice in merged:
        if decisions.get(choice.index) is not None:
            setattr(choice, CHOICE_ATTRIBUTE, decisions[choice.index])


def _decision(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    # The fifth argument of every tested version, counted without self.
    params = kwargs.get("kv_transfer_params", args[4] if len(args) > 4 else None)
    return params.get(RESULT_KEY) if isinstance(params, dict) else None
