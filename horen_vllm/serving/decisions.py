"""The way of a decision from the engine's outputs into the HTTP response, one sink for each request."""

import functools
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from horen_vllm.errors import HorenError
from horen_vllm.ids import CodebookName
from horen_vllm.plugin.tag import RESERVED_PREFIX, RESULT_KEY, SPAN_KEY
from horen_vllm.serving.spans import RequestSpan, tap_renderer


@dataclass(slots=True)
class DecisionSink:
    """What the engine decided for one HTTP request, by choice index."""

    model: str
    """The model name that the client asked for."""
    span: RequestSpan = field(default_factory=RequestSpan)
    observe: Callable[[dict[str, Any]], None] | None = None
    """Told each choice's decision once, as the engine reports it."""
    refused: Callable[[str], None] | None = None
    """Told the code, should the request be refused."""
    prompts: int = 0
    prompt_spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Query spans by prompt index; a prompt that is its own span has none."""
    by_choice: dict[int, dict[str, Any]] = field(default_factory=dict)

    def record(self, prompt: int, choices_per_prompt: int, output: Any) -> None:
        """Take the decision of each choice out of an engine output, if it carries one."""
        shared = (output.kv_transfer_params or {}).pop(RESULT_KEY, None)
        if shared is not None:
            output.kv_transfer_params = output.kv_transfer_params or None
        # The engine's own field has room for one decision: it is a choice's own only where there is one choice.
        alone = shared if len(output.outputs) == 1 else None
        for completion in output.outputs:
            decision = getattr(completion, RESULT_KEY, None) or alone
            if decision is not None:
                self._keep(prompt * choices_per_prompt + completion.index, decision, self.prompt_spans.get(prompt))

    def refuse(self, error: HorenError) -> None:
        """Note that the request is answered with `error`."""
        if self.refused is not None:
            self.refused(error.code)

    def _keep(self, choice: int, decision: dict[str, Any], span: tuple[int, int] | None) -> None:
        # With stop strings every output carries the decision again.
        if self.observe is not None and choice not in self.by_choice:
            self.observe(decision)
        explained = {"span": span} if "window" in decision else {}
        self.by_choice[choice] = _public(decision) | explained


current_sink: Final[ContextVar[DecisionSink | None]] = ContextVar("horen_decision_sink", default=None)
"""The sink of the HTTP request that runs in this context; None for the clean model."""


def tap(engine_client: Any, models: Any) -> None:
    """Make one API server's engine client serve codebooks.

    Requests carry their query span to the engine, decisions come back to the current sink, and responses carry the
    model name that was asked for.
    """
    generate, model_name, renderer = engine_client.generate, models.model_name, engine_client.renderer

    @functools.wraps(generate)
    def tapped_generate(prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        sink = current_sink.get()
        if sink is None:
            _untag(sampling_params)
            return generate(prompt, sampling_params, *args, **kwargs)
        span = sink.span.of(prompt, renderer.get_bos_token_id())
        if span is not None:
            # A new dict: the requests of one list of prompts share theirs.
            sampling_params.extra_args = {**(sampling_params.extra_args or {}), SPAN_KEY: list(span)}
        outputs = generate(prompt, sampling_params, *args, **kwargs)
        # vLLM calls this once a prompt, in order: the index is the only link to the response's choices.
        index, sink.prompts = sink.prompts, sink.prompts + 1
        if span is not None:
            sink.prompt_spans[index] = span
        return _recorded(outputs, sink, index, sampling_params.n)

    @functools.wraps(model_name)
    def asked_model_name(*args: Any, **kwargs: Any) -> str:
        sink = current_sink.get()
        return sink.model if sink is not None else str(model_name(*args, **kwargs))

    tap_renderer(renderer, _current_span)
    engine_client.generate = tapped_generate
    models.model_name = asked_model_name


def _current_span() -> RequestSpan | None:
    sink = current_sink.get()
    return sink.span if sink is not None else None


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
