"""What a request may carry into the engine when several tenants share it. Pure functions on decoded requests."""

import hashlib
import hmac
import json
from collections.abc import Iterable
from typing import Any, Final

from horen_vllm.errors import InvalidArgument
from horen_vllm.ids import TenantId

_ENGINE_FIELDS: Final = frozenset({"kv_transfer_params", "ec_transfer_params", "session_id", "priority"})
"""They name blocks, caches, sessions and places in the queue of the whole engine, whoever owns them."""
_ENGINE_XARGS: Final = frozenset({"kv_transfer_params", "ec_transfer_params", "session_id", "kv_cache_report_mode"})
_ENGINE_HEADERS: Final = frozenset({b"x-session-id", b"x-vllm-priority", b"x-data-parallel-rank"})
_REQUEST_ID: Final = b"x-request-id"

Headers = list[tuple[bytes, bytes]]


def isolated_headers(headers: Iterable[tuple[bytes, bytes]], tenant: TenantId) -> Headers:
    """Return the headers without session, rank and priority, and with the request id marked as the tenant's."""
    kept = [(name, value) for name, value in headers if name not in _ENGINE_HEADERS]
    mark = f"{tenant}.".encode()
    return [(name, value if name != _REQUEST_ID else mark + value.removeprefix(mark)) for name, value in kept]


def isolated_body(body: dict[str, Any], tenant: TenantId, salt_secret: bytes | None) -> dict[str, Any]:
    """Return a completion or chat request that can reach nothing of another tenant.

    Parameters
    ----------
    body
        The client's JSON object.
    tenant
        Whose request it is.
    salt_secret
        Makes prefix-cache blocks the tenant's own; None shares them with everybody.

    Raises
    ------
    InvalidArgument
        ``unsupported_parameter``, for a salt that is no text and for cached media by id.
    """
    _refuse_cached_media(body)
    kept = {name: value for name, value in body.items() if name not in _ENGINE_FIELDS}
    if isinstance(extra := kept.get("vllm_xargs"), dict):
        kept["vllm_xargs"] = {name: value for name, value in extra.items() if name not in _ENGINE_XARGS}
    if isinstance(request_id := kept.get("request_id"), str):
        kept["request_id"] = f"{tenant}.{request_id}"
    if salt_secret is not None:
        kept["cache_salt"] = _salt(salt_secret, tenant, kept.get("cache_salt"))
    return kept


def _salt(secret: bytes, tenant: TenantId, asked: object) -> str:
    # The client's own salt still parts its requests from one another; the tenant's name parts them from all others.
    if asked is not None and (not isinstance(asked, str) or not asked):
        raise InvalidArgument("cache_salt must be a text that is not empty.", code="unsupported_parameter")
    return hmac.new(secret, json.dumps([tenant, asked]).encode(), hashlib.sha256).hexdigest()


def _refuse_cached_media(body: dict[str, Any]) -> None:
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("uuid") is not None:
                text = "uuid of a message part is not offered here: it names media that another tenant may have sent."
                raise InvalidArgument(text, code="unsupported_parameter")
