"""Errors as the OpenAI API spells them, with our stable code."""

import json
from typing import Any, Final

from horen_vllm.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    HorenError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

HTTP_STATUS: Final[dict[type[HorenError], int]] = {
    InvalidArgument: 400,
    NotFound: 404,
    Unauthenticated: 401,
    PermissionDenied: 403,
    AlreadyExists: 409,
    FailedPrecondition: 409,
    Aborted: 409,
    ResourceExhausted: 429,
    Unavailable: 503,
    DataLoss: 500,
    Internal: 500,
}
"""One row for each error class of `horen_vllm.errors`."""


def problem(error: HorenError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and JSON body of an error."""
    body = {"message": error.message, "type": type(error).__name__, "param": None, "code": error.code}
    status = next(HTTP_STATUS[base] for base in type(error).__mro__ if base in HTTP_STATUS)
    return status, {"error": body}


async def send_problem(error: HorenError, send: Any) -> None:
    """Answer an ASGI request with an error."""
    status, body = problem(error)
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
