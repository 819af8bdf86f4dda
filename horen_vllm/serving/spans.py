"""The query span of a request, found where the API server has messages, template arguments and token ids together.

vLLM's renderer turns a chat into token ids; the tap on it asks for the tokens' places in the text, renders the chat
a second time with marks around the last user message, and keeps the span for the call that gives the ids to the engine.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from horen_vllm.core.presets import SpanMode
from horen_vllm.core.span import (
    content_marks,
    content_range,
    content_tokens,
    copied_messages,
    marked_messages,
    text_span,
)
from horen_vllm.errors import FailedPrecondition, InvalidArgument


@dataclass(slots=True)
class RequestSpan:
    """What one HTTP request's query span follows from, and the spans found so far."""

    mode: SpanMode = SpanMode.PROMPT
    """The codebook's."""
    chat: bool = False
    """Whether the request is a chat; else its prompts come without a template."""
    _found: list[tuple[list[int], tuple[int, int]]] = field(default_factory=list)

    def keep(self, prompt_ids: list[int], span: tuple[int, int]) -> None:
        """Note the span of a rendered chat."""
        self._found.append((prompt_ids, span))

    def of(self, engine_input: Any, bos_id: int | None) -> tuple[int, int] | None:
        """Return the span of a prompt on its way to the engine; None for the whole prompt.

        Parameters
        ----------
        engine_input
            What vLLM gives to the engine; has ``prompt_token_ids``.
        bos_id
            The tokenizer's BOS token, if it has one.

        Raises
        ------
        InvalidArgument
            ``empty_query_span``.
        FailedPrecondition
            ``unsupported_tokenizer``, for a chat that vLLM did not render through the renderer.
        """
        if self.mode is SpanMode.PROMPT:
            return None
        prompt_ids = engine_input["prompt_token_ids"]
        if not self.chat:
            return text_span(prompt_ids, bos_id)
        for ids, span in self._found:
            if ids == prompt_ids:
                return span
        raise _no_places()


def tap_renderer(renderer: Any, asked: Callable[[], RequestSpan | None]) -> None:
    """Make a renderer find the query span of every chat that is rendered for a codebook.

    Parameters
    ----------
    renderer
        vLLM's; `render_chat_async` and `render_messages_async` are used.
    asked
        Returns the span of the request that runs in this context; None for the clean model.
    """
    render_chat = renderer.render_chat_async

    @functools.wraps(render_chat)
    async def tapped_render_chat(
        conversations: Any, chat_params: Any, tok_params: Any = None, **more: Any
    ) -> tuple[Any, Any]:
        span = asked()
        if span is None or not span.chat:
            return await _pair(render_chat(conversations, chat_params, tok_params, **more))
        _check_template(chat_params)
        if span.mode is SpanMode.PROMPT:
            return await _pair(render_chat(conversations, chat_params, tok_params, **more))
        copies = [copied_messages(messages) for messages in conversations]
        tok_params = dataclasses.replace(tok_params or renderer.default_chat_tok_params, return_token_offsets=True)
        rendered, inputs = await render_chat(copies, chat_params, tok_params, **more)
        truncated = tok_params.truncate_prompt_tokens is not None
        for messages, engine_input in zip(copies, inputs, strict=True):
            text, offsets = _places(engine_input)
            marks = content_marks(text)
            chars = content_range(text, await _marked(renderer, marked_messages(messages, marks), chat_params), marks)
            span.keep(engine_input["prompt_token_ids"], content_tokens(offsets, chars, truncated=truncated))
        return rendered, inputs

    renderer.render_chat_async = tapped_render_chat


async def _pair(rendering: Any) -> tuple[Any, Any]:
    conversations, inputs = await rendering
    return conversations, inputs


def _places(engine_input: Any) -> tuple[str, list[tuple[int, int]]]:
    """Return a rendered chat as text, with each token's place in it."""
    if engine_input["type"] != "token":
        raise InvalidArgument("a chat with media cannot be routed through a codebook.", code="unsupported_content")
    # The places are taken out again: nothing behind this expects them.
    offsets, text = engine_input.pop("prompt_token_offsets", None), engine_input.get("prompt")
    if offsets is None or text is None:
        raise _no_places()
    return text, offsets


async def _marked(renderer: Any, messages: Any, chat_params: Any) -> str:
    from vllm.exceptions import VLLMValidationError  # noqa: PLC0415 - only a running server has vLLM

    try:
        _, prompt = await renderer.render_messages_async(messages, chat_params)
    except (VLLMValidationError, ValueError) as exc:
        message = "the model's chat template refuses the last user message when its edges are marked."
        raise InvalidArgument(message, code="query_span_not_found") from exc
    return str(prompt["prompt"])


def _check_template(chat_params: Any) -> None:
    # Keys are made through the model's own template: behind another one they would not match.
    if chat_params.get_apply_chat_template_kwargs().get("chat_template") is not None:
        message = "chat_template cannot be used with a codebook: edits are keyed through the model's own template."
        raise InvalidArgument(message, code="unsupported_parameter")


def _no_places() -> FailedPrecondition:
    message = (
        "this codebook routes chats by the last user message, but the served model's tokenizer does not say where "
        "its tokens stand in the text."
    )
    return FailedPrecondition(message, code="unsupported_tokenizer")
