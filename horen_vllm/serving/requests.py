"""What a request's JSON body asks for, and the tag that goes into it. Pure functions on decoded JSON."""

import json
from typing import Any, Final

from horen_vllm.errors import InvalidArgument
from horen_vllm.ids import DEFAULT_TENANT, TenantId
from horen_vllm.plugin.tag import RESERVED_PREFIX, RequestTag
from horen_vllm.serving.codebooks import ServedCodebooks

CHAT_PATH: Final = "/v1/chat/completions"
EDITABLE_PATHS: Final = frozenset({"/v1/completions", CHAT_PATH})
"""Routes on which ``NAME@CODEBOOK`` is answered; elsewhere it is refused."""

_UNSUPPORTED: Final = {
    "use_beam_search": "beam search re-submits its beams as prompts, which would move the answer's start",
    "prompt_embeds": "a prompt of embeddings has no token ids to find the query window by",
    "kv_transfer_params": "external KV blocks may reach past the query window's start",
}


def parse_body(content: bytes) -> dict[str, Any]:
    """Return the JSON object of a request.

    Raises
    ------
    InvalidArgument
        ``malformed_json``.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise InvalidArgument(f"the request body is not JSON: {exc}.", code="malformed_json") from exc
    if not isinstance(body, dict):
        raise InvalidArgument("the request body must be a JSON object.", code="malformed_json")
    return body


def tag_for(
    path: str, body: dict[str, Any], served: ServedCodebooks, tenant: TenantId | None = DEFAULT_TENANT
) -> RequestTag | None:
    """Return the tag of a request of `tenant`; None when it is for the clean model.

    Raises
    ------
    InvalidArgument
        ``reserved_field``, ``unsupported_endpoint`` or ``unsupported_parameter``.
    NotFound, Unavailable
        As `ServedCodebooks.resolve`.
    """
    _refuse_reserved(body)
    model = body.get("model")
    tag = served.resolve(model, tenant) if isinstance(model, str) else None
    if tag is None:
        return None
    if path not in EDITABLE_PATHS:
        message = f"{path} does not answer for codebooks: use /v1/completions or /v1/chat/completions."
        raise InvalidArgument(message, code="unsupported_endpoint")
    if not isinstance(body.get("vllm_xargs") or {}, dict):
        raise InvalidArgument("vllm_xargs must be a JSON object.", code="unsupported_parameter")
    for name, reason in _UNSUPPORTED.items():
        if body.get(name):
            raise InvalidArgument(f"{name} cannot be used with a codebook: {reason}.", code="unsupported_parameter")
    return tag


def with_tag(body: dict[str, Any], tag: RequestTag) -> dict[str, Any]:
    """Return the body for the clean model's name, with the tag where vLLM carries it to the engine (``vllm_xargs``)."""
    base = str(body["model"]).rpartition("@")[0]
    return {**body, "model": base, "vllm_xargs": {**(body.get("vllm_xargs") or {}), **tag.to_extra_args()}}


def _refuse_reserved(body: dict[str, Any]) -> None:
    # The tag decides whose codebook is read, so a client must never be able to write it.
    extra = body.get("vllm_xargs")
    reserved = [name for name in extra if str(name).startswith(RESERVED_PREFIX)] if isinstance(extra, dict) else []
    if reserved:
        message = f"vllm_xargs.{reserved[0]} is reserved: choose a codebook by the model name NAME@CODEBOOK."
        raise InvalidArgument(message, code="reserved_field")
