"""The way of a decision from the engine's outputs into the HTTP response, one sink for each request."""

import functools
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from horen_vllm.ids import CodebookName
from horen_vllm.plugin.tag import RESERVED_PREFIX, RESULT_KEY


@dataclass(slots=True)
class DecisionSink:
    """What the engine decided for one HTTP request, by choice index."""

    model: str
    """The model name that the client asked for."""
    prompts: int = 0
    by_choice: dict[int, dict[str, Any]] = field(default_factory=dict)

    def record(self, prompt: int, choices_per_prompt: int, output: Any) -> None:
        """Take the decision out of an engine output, if it carries one."""
        decision = (output.kv_transfer_params or {}).pop(RESULT_KEY, None)
        if decision is None:
            return
        output.kv_transfer_params = output.kv_transfer_params or None
        public = _public(decision)
        for completion in output.outputs:
            self.by_choice[prompt * choices_per_prompt + completion.index] = public


current_sink: Final[ContextVar[DecisionSink | None]] = ContextVar("horen_decision_sink", default=None)
"""The sink of the HTTP request that runs in this context; None for the clean model."""


def tap(engine_client: Any, models: Any) -> None:
    """Make the engine client hand decisions to the current sink, and responses carry the name that was asked for."""
    generate, model_name = engine_client.generate, models.model_name

    @functools.wraps(generate)
    def tapped_generate(prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        sink = current_sink.get()
        if sink is None:
            _untag(sampling_params)
            return generate(prompt, sampling_params, *args, **kwargs)
        outputs = generate(prompt, sampling_params, *args, **kwargs)
        # vLLM calls this once a prompt, in order: the index is the only link to the response's choices.
        index, sink.prompts = sink.prompts, sink.prompts + 1
        return _recorded(outputs, sink, index, sampling_params.n)

    @functools.wraps(model_name)
    def asked_model_name(*args: Any, **kwargs: Any) -> str:
        sink = current_sink.get()
        return sink.model if sink is not None else str(model_name(*args, **kwargs))

    engine_client.generate = tapped_generate
    models.model_name = asked_model_name


def _untag(sampling_params: Any) -> None:
    # Forms and routes with raw sampling parameters pass the middleware: they must not choose a codebook.
    extra = sampling_params.extra_args
    if extra and any(str(name).startswith(RESERVED_PREFIX) for name in extra):
        kept = {name: value for name, value in extra.items() if not str(name).startswith(RESERVED_PREFIX)}
        sampling_params.extra_args = kept or None


async def _recorded(outputs: AsyncIterator[Any], sink: DecisionSink, prompt: int, choices: int) -> AsyncIterator[Any]:
    async for output in outputs:
        sink.record(prompt, choices, output)
        yield output


def _public(decision: dict[str, Any]) -> dict[str, Any]:
    """Return a decision as clients see it: the codebook by its short name, and whether an edit fired."""
    name = CodebookName.parse(decision["codebook"])
    return {**decision, "codebook": name.codebook, "fired": decision["edit_id"] is not None}
