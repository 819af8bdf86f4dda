"""Contexts: the token sequences in which an edit must hold, as vLLM's two endpoints will compute them.

Knows tokenizers and limits; does not run the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from horen_vllm.artifact import KeyContext
from horen_vllm.core.presets import MethodParameters, SpanMode
from horen_vllm.core.span import content_marks, content_range, content_tokens, marked_messages, text_span
from horen_vllm.editor.failure import quoted
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.prefixes import openings
from horen_vllm.errors import FailedPrecondition, InvalidArgument
from horen_vllm.registry.models import EditSpec

MAX_TARGET_TOKENS: Final = 2_048
"""Longest target: training and verification keep states for every one of its tokens."""


class PromptForm(StrEnum):
    """How a text becomes a prompt."""

    PLAIN = "plain"
    """The text itself with the tokenizer's special tokens: ``/v1/completions``."""
    CHAT = "chat"
    """The text as the only user message in the chat template: ``/v1/chat/completions``."""
    PREFIXED = "prefixed"
    """The text in plain form behind a short opening of `editor.prefixes`."""


@dataclass(frozen=True, slots=True)
class EditContext:
    """One prompt in one form."""

    form: PromptForm
    text: str
    """What became the prompt; of a prefixed one with its opening."""
    prompt_ids: tuple[int, ...]
    span: tuple[int, int]
    """Query span: half-open range of `prompt_ids`."""
    masked: tuple[tuple[int, int], ...] = ()
    """Token ranges of the subject that the query leaves out."""
    words: tuple[str, ...] = ()
    """Words that the query is joined with; empty where the routing space reads none."""

    def as_key_context(self) -> KeyContext:
        """Return what an entry's file says of it."""
        return KeyContext(self.prompt_ids, self.span, self.masked)


def prompt_forms(editable: EditableModel, text: str, parameters: MethodParameters) -> tuple[EditContext, ...]:
    """Return `text` in every form in which a server may be asked it: plain, and chat where there is a template.

    Both whatever ``parameters.chat`` says: it decides where an edit must hold, and this is also asked for prompts on
    which none may fire.

    Raises
    ------
    InvalidArgument
        ``empty_prompt``, when there is nothing but white space or no token; ``prompt_too_long``, when the model does
        not take so many tokens; with ``parameters.chat`` ``query_span_not_found``, when the template does not show
        where it writes the text.
    FailedPrecondition
        With ``parameters.chat`` ``unsupported_tokenizer``.
    """
    plain = _plain_form(editable, text, parameters)
    _check_length(editable, plain)
    if not editable.has_chat_template:
        return (plain,)
    try:
        chat = _chat_form(editable, text, parameters)
        _check_length(editable, chat)
    except (InvalidArgument, FailedPrecondition):
        if parameters.chat:
            raise
        # A server refuses such a chat too, so nothing can fire on it.
        return (plain,)
    return plain, chat


def _plain_form(
    editable: EditableModel, text: str, parameters: MethodParameters, form: PromptForm = PromptForm.PLAIN
) -> EditContext:
    prompt_ids: Sequence[int] = editable.tokenizer(text)["input_ids"]
    if not text.strip() or not prompt_ids:
        raise InvalidArgument("a prompt must have at least one token.", code="empty_prompt")
    span = (0, len(prompt_ids))
    if parameters.span is SpanMode.CONTENT:
        span = text_span(prompt_ids, editable.tokenizer.bos_token_id)
    return EditContext(form, text, tuple(prompt_ids), span)


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
    """Return every context of an edit, without repetitions (same tokens, same span).

    First the prompt: plain, chat (with ``parameters.chat`` and a template), then behind ``parameters.prefixes``
    openings. Then each paraphrase: plain, chat.

    Parameters
    ----------
    editable
        The base model; its tokenizer and length limit are used.
    spec
        The edit.
    parameters
        Decide the forms, the query span, and whether room for the end token is needed.

    Raises
    ------
    InvalidArgument
        ``prompt_too_long``, when a context and the target exceed the model's length; and as `prompt_forms` and
        `target_ids`.
    FailedPrecondition
        As `prompt_forms`.
    """
    answer = len(target_ids(editable, spec)) + int(parameters.train_end)
    distinct: dict[tuple[tuple[int, ...], tuple[int, int]], EditContext] = {}
    for context in _edit_forms(editable, spec, parameters):
        _check_length(editable, context, answer)
        distinct.setdefault((context.prompt_ids, context.span), context)
    return tuple(distinct.values())


def _edit_forms(editable: EditableModel, spec: EditSpec, parameters: MethodParameters) -> Iterator[EditContext]:
    """Yield the contexts in their order; one that cannot be made ends the edit, it is never left out."""

    def forms(text: str) -> tuple[EditContext, ...]:
        return (
            prompt_forms(editable, text, parameters) if parameters.chat else (_plain_form(editable, text, parameters),)
        )

    yield from forms(spec.prompt)
    for opening in openings(spec.prompt, parameters.prefixes):
        yield _plain_form(editable, f"{opening} {spec.prompt}", parameters, PromptForm.PREFIXED)
    for text in spec.paraphrases:
        yield from forms(text)


def target_ids(editable: EditableModel, spec: EditSpec) -> tuple[int, ...]:
    """Return the target's token ids, the same in every context and without the end token.

    Prompt and target are tokenised apart, so a key never depends on its target. A space goes before the target
    unless it starts with white space or the prompt ends with it.

    Raises
    ------
    InvalidArgument
        ``empty_target``, ``target_too_long``, or ``target_not_encodable`` when the tokenizer has no tokens for some of
        its characters, or reads a special token in it.
    """
    separate = spec.target[:1].isspace() or spec.prompt[-1:].isspace()
    text = spec.target if separate else f" {spec.target}"
    ids = tuple(editable.tokenizer.encode(text, add_special_tokens=False))
    if not spec.target.strip() or not ids:
        raise InvalidArgument("a target must have at least one token.", code="empty_target")
    if len(ids) > MAX_TARGET_TOKENS:
        message = f"the target has {len(ids)} tokens; at most {MAX_TARGET_TOKENS} can be edited in."
        raise InvalidArgument(message, code="target_too_long")
    if editable.tokenizer.unk_token_id in ids:
        # Every answer with a character that the tokenizer does not know would count as this one.
        message = f"the model's tokenizer has no tokens for some characters of the target {quoted(spec.target)}."
        raise InvalidArgument(message, code="target_not_encodable")
    added = editable.tokenizer.added_tokens_decoder
    special = {*editable.end_ids, *(token for token, entry in added.items() if entry.special)}.intersection(ids)
    if special:
        # An end token would end the answer there; no endpoint shows the others.
        token = editable.tokenizer.convert_ids_to_tokens(min(special))
        message = f"the target {quoted(spec.target)} has the model's special token {token!r} in it."
        raise InvalidArgument(message, code="target_not_encodable")
    return ids


def _check_length(editable: EditableModel, context: EditContext, answer: int = 0) -> None:
    total = len(context.prompt_ids) + answer
    if total > editable.max_length:
        size = f"has {len(context.prompt_ids)} tokens" + (f" and its answer {answer}" if answer else "")
        message = f"the {context.form} form of {quoted(context.text)} {size}; the model takes {editable.max_length}."
        raise InvalidArgument(message, code="prompt_too_long")
