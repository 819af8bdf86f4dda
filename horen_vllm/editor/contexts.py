"""Contexts: the token sequences in which an edit must hold, as vLLM's two endpoints will compute them.

Knows tokenizers and limits; does not run the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from horen_vllm.core.presets import MethodParameters, SpanMode
from horen_vllm.core.span import content_marks, content_range, content_tokens, marked_messages, text_span
from horen_vllm.editor.model import EditableModel
from horen_vllm.errors import FailedPrecondition, InvalidArgument
from horen_vllm.registry.models import EditSpec

MAX_TARGET_TOKENS: Final = 256
"""Longest target; a `sequence` value costs one vector a token."""


class PromptForm(StrEnum):
    """How a text becomes a prompt."""

    PLAIN = "plain"
    """The text itself with the tokenizer's special tokens: ``/v1/completions``."""
    CHAT = "chat"
    """The text as the only user message in the chat template: ``/v1/chat/completions``."""


@dataclass(frozen=True, slots=True)
class EditContext:
    """One prompt in one form."""

    form: PromptForm
    text: str
    prompt_ids: tuple[int, ...]
    span: tuple[int, int]
    """Query span: half-open range of `prompt_ids`."""


def prompt_forms(editable: EditableModel, text: str, parameters: MethodParameters) -> tuple[EditContext, ...]:
    """Return `text` in plain form and, where the tokenizer has a chat template, in chat form.

    Raises
    ------
    InvalidArgument
        ``empty_prompt``, when there is nothing but white space or no token; ``query_span_not_found``, when the
        template does not show where it writes the text.
    FailedPrecondition
        ``unsupported_tokenizer``.
    """
    plain: Sequence[int] = editable.tokenizer(text)["input_ids"]
    if not text.strip() or not plain:
        raise InvalidArgument("a prompt must have at least one token.", code="empty_prompt")
    span = (0, len(plain))
    if parameters.span is SpanMode.CONTENT:
        span = text_span(plain, editable.tokenizer.bos_token_id)
    contexts = [EditContext(PromptForm.PLAIN, text, tuple(plain), span)]
    if editable.has_chat_template:
        contexts.append(_chat_form(editable, text, parameters))
    return tuple(contexts)


def _chat_form(editable: EditableModel, text: str, parameters: MethodParameters) -> EditContext:
    messages = [{"role": "user", "content": text}]
    rendered = _render(editable, messages)
    tracked = parameters.span is SpanMode.CONTENT
    if tracked and not editable.tokenizer.is_fast:
        message = (
            f"preset {parameters.preset!r} needs a tokenizer that knows its tokens' places in the text (a fast one)."
        )
        raise FailedPrecondition(message, code="unsupported_tokenizer")
    # The template writes the special tokens, so the tokenizer must add none.
    encoding = editable.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=tracked)
    prompt_ids = tuple(encoding["input_ids"])
    span = (0, len(prompt_ids))
    if tracked:
        marks = content_marks(rendered)
        marked = _render(editable, marked_messages(messages, marks))
        span = content_tokens(encoding["offset_mapping"], content_range(rendered, marked, marks))
    return EditContext(PromptForm.CHAT, text, prompt_ids, span)


def _render(editable: EditableModel, messages: list[dict[str, Any]]) -> str:
    return str(editable.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def build_contexts(editable: EditableModel, spec: EditSpec, parameters: MethodParameters) -> tuple[EditContext, ...]:
    """Return every context of an edit: prompt and paraphrases, each in all forms, without repetitions.

    Parameters
    ----------
    editable
        The base model; its tokenizer and length limit are used.
    spec
        The edit.
    parameters
        Decide the query span, and whether room for the end token is needed.

    Raises
    ------
    InvalidArgument
        ``prompt_too_long``, when a context and the target exceed the model's length; and as `prompt_forms` and
        `target_ids`.
    FailedPrecondition
        As `prompt_forms`.
    """
    answer = len(target_ids(editable, spec)) + int(parameters.train_end)
    contexts: dict[tuple[int, ...], EditContext] = {}
    for text in (spec.prompt, *spec.paraphrases):
        for context in prompt_forms(editable, text, parameters):
            _check_length(editable, context, answer)
            contexts.setdefault(context.prompt_ids, context)
    return tuple(contexts.values())


def target_ids(editable: EditableModel, spec: EditSpec) -> tuple[int, ...]:
    """Return the target's token ids, the same in every context and without the end token.

    Prompt and target are tokenised apart, so a key never depends on its target. A space goes before the target
    unless it starts with white space or the prompt ends with it.

    Raises
    ------
    InvalidArgument
        ``empty_target`` or ``target_too_long``.
    """
    separate = spec.target[:1].isspace() or spec.prompt[-1:].isspace()
    text = spec.target if separate else f" {spec.target}"
    ids = tuple(editable.tokenizer.encode(text, add_special_tokens=False))
    if not spec.target.strip() or not ids:
        raise InvalidArgument("a target must have at least one token.", code="empty_target")
    if len(ids) > MAX_TARGET_TOKENS:
        message = f"the target has {len(ids)} tokens; at most {MAX_TARGET_TOKENS} can be edited in."
        raise InvalidArgument(message, code="target_too_long")
    return ids


def _check_length(editable: EditableModel, context: EditContext, answer: int) -> None:
    total = len(context.prompt_ids) + answer
    if total > editable.max_length:
        message = (
            f"the {context.form} form of the prompt has {len(context.prompt_ids)} tokens and its answer {answer}; "
            f"the model takes {editable.max_length} together."
        )
        raise InvalidArgument(message, code="prompt_too_long")
