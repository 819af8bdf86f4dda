"""Questions as token ids with their query span, as vLLM's two endpoints and our middleware make them."""

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

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
from horen_vllm.evals.records import Question

Prompt = tuple[tuple[int, ...], tuple[int, int]]
"""Token ids, and the half-open range of them that is the query span."""


class PromptMaker:
    """Makes prompts with one tokenizer.

    Parameters
    ----------
    tokenizer
        Of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def prompt(self, question: Question, span: SpanMode) -> Prompt:
        """Return a question's prompt.

        Raises
        ------
        InvalidArgument
            ``question_refused``: it has no token, the model has no chat template, or its last user message cannot be
            found in the chat.
        FailedPrecondition
            ``unsupported_tokenizer``, when the span is that of the content and the tokenizer is not a fast one.
        """
        try:
            made = self._chat(question, span) if question.messages else self._completion(question, span)
        except InvalidArgument as exc:
            raise InvalidArgument(exc.message, code="question_refused") from exc
        if not made[0]:
            raise InvalidArgument("the prompt has no token.", code="question_refused")
        return made

    def text(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        """Return the text of generated tokens without special ones, as a stream of them reads after the prompt."""
        stream = DecodeStream(ids=list(prompt_ids), skip_special_tokens=True)
        backend = self._tokenizer.backend_tokenizer
        return "".join(stream.step(backend, token) or "" for token in token_ids)

    def _completion(self, question: Question, span: SpanMode) -> Prompt:
        ids = tuple(self._tokenizer(question.prompt or "")["input_ids"])
        if span is SpanMode.CONTENT:
            return ids, text_span(ids, self._tokenizer.bos_token_id)
        return ids, (0, len(ids))

    def _chat(self, question: Question, span: SpanMode) -> Prompt:
        if not self._tokenizer.chat_template:
            raise InvalidArgument("the model has no chat template.", code="question_refused")
        messages = [{"role": message.role, "content": message.content} for message in question.messages]
        rendered = self._render(messages)
        tracked = span is SpanMode.CONTENT
        if tracked and not self._tokenizer.is_fast:
            message = "the codebook's query span needs a fast tokenizer, and the model's is not one."
            raise FailedPrecondition(message, code="unsupported_tokenizer")
        # The template writes the special tokens, so the tokenizer must add none.
        encoding = self._tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=tracked)
        ids = tuple(encoding["input_ids"])
        if not tracked:
            return ids, (0, len(ids))
        marks = content_marks(rendered)
        marked = self._render(marked_messages(copied_messages(messages), marks))
        return ids, content_tokens(encoding["offset_mapping"], content_range(rendered, marked, marks))

    def _render(self, messages: list[dict[str, Any]]) -> str:
        return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
