"""What is refused for one request, before it reaches the engine: with ``LLM()`` and in a server alike.

Why: past this point a request that cannot be routed right could only be answered wrong. How: the method that turns a
prompt into a request is wrapped. The error is a ``ValueError``, which vLLM's API server answers with status 400.
Beam search never comes here with a tag: its parameters have no room for one.
"""

import functools
from collections.abc import Iterable
from typing import Any, Final

from horen_vllm.errors import FailedPrecondition, InvalidArgument
from horen_vllm.plugin.guard import check_guard
from horen_vllm.plugin.settings import EngineSettings
from horen_vllm.plugin.tag import CODEBOOK_KEY, EXPLAIN_KEY, RATIO_KEY, RESERVED_PREFIX, SPAN_KEY, RequestTag, tag_of

MAX_EXPLAINED: Final = 100
"""Most nearest entries that one request may ask for."""
_KNOWN: Final = frozenset({CODEBOOK_KEY, RATIO_KEY, SPAN_KEY, EXPLAIN_KEY})


class RefusedRequest(InvalidArgument, ValueError):
    """A request that cannot be served through a codebook."""


def install() -> None:
    """Wrap vLLM's input processor; once a process, before an engine is made."""
    from vllm.v1.engine.input_processor import InputProcessor  # noqa: PLC0415

    original = InputProcessor.process_inputs

    @functools.wraps(original)
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        _check_guard()
        check_tag(getattr(params, "extra_args", None))
        if tag_of(params) is not None:
            check_engine(self.vllm_config.additional_config)
        request = original(self, request_id, prompt, params, *args, **kwargs)
        tag = tag_of(params)
        if tag is not None:
            check_request(tag, request)
        return request

    InputProcessor.process_inputs = process_inputs


def _check_guard() -> None:
    try:
        check_guard()
    except FailedPrecondition as error:
        raise RefusedRequest(error.message, code=error.code) from error


def check_tag(extra_args: Any) -> None:
    """Refuse ``extra_args`` that carry something under our names that is not a complete tag.

    Raises
    ------
    RefusedRequest
        ``malformed_tag``, naming the field.
    """
    ours = {name for name in extra_args or () if str(name).startswith(RESERVED_PREFIX)}
    if not ours:
        return
    for name in sorted(ours - _KNOWN):
        raise _malformed(name, "is not a field of a tag")
    for name in (CODEBOOK_KEY, RATIO_KEY):
        if name not in ours:
            raise _malformed(name, "is missing")
    for name, complaint in _complaints(extra_args):
        raise _malformed(name, complaint)


def check_engine(additional_config: Any) -> None:
    """Refuse a tagged request for an engine without an edit site, which would answer with the clean model.

    Raises
    ------
    RefusedRequest
        ``no_edit_site``.
    """
    if EngineSettings.from_additional_config(additional_config) is None:
        message = "this engine serves no codebooks: start it with additional_config.horen."
        raise RefusedRequest(message, code="no_edit_site")


def check_request(tag: RequestTag, request: Any) -> None:
    """Refuse a tagged request that cannot be routed or answered right.

    Parameters
    ----------
    tag
        The request's tag.
    request
        vLLM's ``EngineCoreRequest``.

    Raises
    ------
    RefusedRequest
        ``span_outside_prompt`` or ``unsupported_request``, with the reason.
    """
    for reason in _reasons(request):
        message = f"a request for a codebook cannot use {reason}."
        raise RefusedRequest(message, code="unsupported_request")
    length = len(request.prompt_token_ids)
    if tag.span is not None and tag.span[1] > length:
        message = f"{SPAN_KEY} = {list(tag.span)} ends outside the prompt of {length} tokens."
        raise RefusedRequest(message, code="span_outside_prompt")


def _reasons(request: Any) -> Iterable[str]:
    extra = request.sampling_params.extra_args or {}
    if request.lora_request is not None:
        yield "a LoRA adapter: its keys are made with the base model's activations"
    if request.resumable:
        yield "a streaming-input session: its prompt grows after it was routed"
    if request.prompt_embeds is not None or not request.prompt_token_ids:
        yield "prompt embeddings: the query window is counted in token ids"
    if extra.get("kv_transfer_params"):
        yield "kv_transfer_params: external KV blocks may reach past the query window's start"


def _complaints(extra: Any) -> Iterable[tuple[str, str]]:
    """Say what is wrong with each field of a complete tag."""
    codebook, ratio = extra[CODEBOOK_KEY], extra[RATIO_KEY]
    span, explain = extra.get(SPAN_KEY), extra.get(EXPLAIN_KEY, 0)
    if not isinstance(codebook, str) or not codebook:
        yield CODEBOOK_KEY, f"= {codebook!r}: give a codebook's name"
    if not _is_number(ratio) or not 0.0 < ratio <= 1.0:
        yield RATIO_KEY, f"= {ratio!r}: give a share above 0 and at most 1"
    if span is not None and not _is_span(span):
        yield SPAN_KEY, f"= {span!r}: give the first token and the one after the last, [start, stop]"
    if not _is_count(explain) or explain > MAX_EXPLAINED:
        yield EXPLAIN_KEY, f"= {explain!r}: give a number of entries, at most {MAX_EXPLAINED}"


def _malformed(name: str, complaint: str) -> RefusedRequest:
    return RefusedRequest(f"extra_args: {name} {complaint}.", code="malformed_tag")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_span(span: Any) -> bool:
    return isinstance(span, list | tuple) and len(span) == 2 and all(map(_is_count, span)) and span[0] < span[1]
