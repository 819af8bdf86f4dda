"""Contexts: the token sequences in which an edit must hold, as vLLM's two endpoints will compute them.

Knows tokenizers and limits; does not run the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.model import EditableModel
from horen_vllm.errors import InvalidArgument
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


def prompt_forms(editable: EditableModel, text: str) -> tuple[EditContext, ...]:
    """Return `text` in plain form and, where the tokenizer has a chat template, in chat form.

    Raises
    ------
    InvalidArgument
        ``empty_prompt``, when there is nothing but white space or no token.
    """
    tokenizer = editable.tokenizer
    plain: Sequence[int] = tokenizer(text)["input_ids"]
    if not text.strip() or not plain:
        raise InvalidArgument("a prompt must have at least one token.", code="empty_prompt")
    contexts = [EditContext(PromptForm.PLAIN, text, tuple(plain))]
    if editable.has_chat_template:
        messages = [{"role": "user", "content": text}]
        chat: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        contexts.append(EditContext(PromptForm.CHAT, text, tuple(chat)))
    return tuple(contexts)


def build_contexts(editable: EditableModel, spec: EditSpec, parameters: MethodParameters) -> tuple[EditContext, ...]:
    """Return every context of an edit: prompt and paraphrases, each in all forms, without repetitions.

    Parameters
    ----------
    editable
        The base model; its tokenizer and length limit are used.
    spec
        The edit.
    parameters
        Decide whether room for the end token is needed.

    Raises
    ------
    InvalidArgument
        ``empty_prompt``; ``prompt_too_long``, when a context and the target exceed the model's length; and as
        `target_ids`.
    """
    answer = len(target_ids(editable, spec)) + int(parameters.train_end)
    contexts: dict[tuple[int, ...], EditContext] = {}
    for text in (spec.prompt, *spec.paraphrases):
        for context in prompt_forms(editable, text):
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
