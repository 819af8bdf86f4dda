"""Turns what handlers raise into statuses, for unary and server-streaming calls alike."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError

from horen_vllm.control.status import shorten, status_of, trailing_metadata
from horen_vllm.errors import HorenError, Internal, InvalidArgument

OWN_METHODS: Final = "/horen.v1."
"""Health and reflection keep their own ways of failing."""


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Ends a call with the status of the `HorenError` that its handler raised.

    Other exceptions end it with INTERNAL and a random id, under which the log has the traceback. A request that is
    not the method's message ends with INVALID_ARGUMENT, ``malformed_request``.
    """

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the handler of a call, guarded."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or not method.startswith(OWN_METHODS):
            return handler
        # No request deserializer: the guarded handlers parse, so that a parse error is theirs to map.
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _guard_stream(handler, method), response_serializer=handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            _guard_unary(handler, method), response_serializer=handler.response_serializer
        )


def _guard_unary(handler: Any, method: str) -> Callable[[bytes, Any], Awaitable[Any]]:
    async def guarded(data: bytes, context: Any) -> Any:
        try:
            return await handler.unary_unary(_parse(handler, data), context)
        except Exception as exc:  # noqa: BLE001  # the last line of defence of every call
            await _abort(context, method, exc)

    return guarded


def _guard_stream(handler: Any, method: str) -> Callable[[bytes, Any], AsyncIterator[Any]]:
    async def guarded(data: bytes, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in handler.unary_stream(_parse(handler, data), context):
                yield response
        except Exception as exc:  # noqa: BLE001  # the last line of defence of every call
            await _abort(context, method, exc)

    return guarded


def _parse(handler: Any, data: bytes) -> Any:
    try:
        return handler.request_deserializer(data)
    except DecodeError as exc:
        raise InvalidArgument("the request is not the message of this method.", code="malformed_request") from exc


async def _abort(context: Any, method: str, exc: Exception) -> NoReturn:
    error = exc if isinstance(exc, HorenError) else _unexpected(method, exc)
    await context.abort(status_of(error), shorten(error.message), trailing_metadata(error))
    raise AssertionError("abort returned") from exc


def _unexpected(method: str, exc: Exception) -> Internal:
    error_id = secrets.token_hex(8)
    structlog.get_logger(__name__).error("unexpected_error", method=method, error_id=error_id, exc_info=exc)
    return Internal(f"unexpected error; the log of the control plane has it under {error_id}.")
