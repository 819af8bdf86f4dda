"""What happens around every call: who is asking, may they, whom is it about, and what becomes of what handlers raise.

In this order, so that nothing of a request is read before its credential is known to be valid.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError

from horen_vllm.control.access import Rule, check_access, settle_tenant
from horen_vllm.control.gate import Gate
from horen_vllm.control.journal import REQUEST_ID, Call, Journal, log_defect
from horen_vllm.control.status import shorten, status_of, trailing_metadata
from horen_vllm.control.validation import check_message
from horen_vllm.errors import HorenError, Internal, InvalidArgument
from horen_vllm.failpoints import failpoint
from horen_vllm.registry.audit import Caller, act_as

OWN_METHODS: Final = "/horen.v1."
HEALTH_METHODS: Final = "/grpc.health."
"""Open to everybody: it tells nothing but whether the server works."""

_CHECKED_ONE_BY_ONE: Final = frozenset({"EditService/SubmitEdits"})
"""Streams whose handlers check each request: one that breaks a rule does not end them."""

_KINDS: Final = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets a call through to its handler, or ends it with the status of a `HorenError`.

    Other exceptions end it with INTERNAL and a random incident id, under which the log says where it was. A request
    that is not the method's message ends with INVALID_ARGUMENT, ``malformed_request``. Handlers whose requests are a
    stream get them as an asynchronous iterator.

    Parameters
    ----------
    gate
        Tells who is asking.
    journal
        Where calls are written down.
    """

    def __init__(self, gate: Gate, journal: Journal) -> None:
        self._gate = gate
        self._journal = journal

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the handler of a call, guarded."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(HEALTH_METHODS):
            return handler
        if not method.startswith(OWN_METHODS):
            return self._closed_to_strangers(handler)
        return self._guarded(handler, method.removeprefix(OWN_METHODS))

    def _guarded(self, handler: Any, method: str) -> Any:
        answer = self._stream(handler, method) if handler.response_streaming else self._unary(handler, method)
        # No request deserializer: the guarded handlers parse, so that a parse error is theirs to map.
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        return kind(answer, response_serializer=handler.response_serializer)

    def _unary(self, handler: Any, method: str) -> Callable[[Any, Any], Awaitable[Any]]:
        work = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def guarded(data: Any, context: Any) -> Any:
            async with self._call(handler, method, context) as passed:
                if not handler.request_streaming:
                    return await work(passed.read(data), context)
                async with self._gate.while_valid(context.invocation_metadata()):
                    return await work(passed.read_all(data), context)

        return guarded

    def _stream(self, handler: Any, method: str) -> Callable[[Any, Any], AsyncIterator[Any]]:
        work = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def guarded(data: Any, context: Any) -> AsyncIterator[Any]:
            async with self._call(handler, method, context) as passed:
                request = passed.read_all(data) if handler.request_streaming else passed.read(data)
                async with self._gate.while_valid(context.invocation_metadata()):
                    async for response in work(request, context):
                        yield response

        return guarded

    @asynccontextmanager
    async def _call(self, handler: Any, method: str, context: Any) -> AsyncIterator["_Admitted"]:
        metadata = context.invocation_metadata() or ()
        streams = handler.request_streaming or handler.response_streaming
        call = self._journal.begin(method, metadata, context.peer(), streams=streams)
        status, failure = grpc.StatusCode.CANCELLED, None
        try:
            await _send_id(context, call.request_id)
            context.add_done_callback(_answered)
            yield await self._admitted(call, handler, metadata)
            failpoint("control.before_answer")
            status = grpc.StatusCode.OK
        except Exception as exc:  # noqa: BLE001 - the last line of defence of every call
            failure = _error(call, exc)
            status, call.code = status_of(failure), failure.code
        finally:
            # Before the client knows, so that what it sees next in the log or the metrics is all there.
            self._journal.end(call, status)
        if failure is not None:
            await _abort(context, failure, call.request_id)

    async def _admitted(self, call: Call, handler: Any, metadata: Any) -> "_Admitted":
        identity = await self._gate.identify(metadata)
        call.actor, call.tenant = identity.actor, identity.tenant if identity.bound else None
        rule = check_access(identity, call.method)
        act_as(Caller(actor=identity.actor, call_id=call.request_id))
        return _Admitted(call, identity, rule, handler.request_deserializer)

    def _closed_to_strangers(self, handler: Any) -> Any:
        """Return reflection's handler, for those only who have a credential."""

        async def guarded(requests: Any, context: Any) -> AsyncIterator[Any]:
            try:
                await self._gate.identify(context.invocation_metadata() or ())
            except HorenError as error:
                await _abort(context, error, None)
            async for response in handler.stream_stream(requests, context):
                yield response

        return grpc.stream_stream_rpc_method_handler(
            guarded,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class _Admitted:
    """A call whose sender may make it; reads its requests."""

    def __init__(self, call: Call, identity: Any, rule: Rule, parse: Callable[[bytes], Any]) -> None:
        self._call = call
        self._identity = identity
        self._rule = rule
        self._parse = parse

    def read(self, data: bytes, *, first: bool = True) -> Any:
        """Return a request in which the tenant stands by its name.

        Raises as `settle_tenant` and `check_message`, and for garbage.
        """
        try:
            request = self._parse(data)
        except DecodeError as exc:
            raise InvalidArgument("the request is not the message of this method.", code="malformed_request") from exc
        tenant = settle_tenant(self._identity, self._rule, request, first=first)
        self._call.tenant = tenant or self._call.tenant
        if self._call.method not in _CHECKED_ONE_BY_ONE:
            check_message(request)
        return request

    async def read_all(self, stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Yield the requests of a stream as `read` returns them."""
        first = True
        async for data in stream:
            yield self.read(data, first=first)
            first = False


async def _send_id(context: Any, request_id: str) -> None:
    try:
        await context.send_initial_metadata(((REQUEST_ID, request_id),))
    except grpc.aio.InternalError as exc:
        # The client has left already: this is how gRPC says so before it cancels the call.
        raise asyncio.CancelledError from exc


def _answered(_context: Any) -> None:
    failpoint("control.after_answer")


async def _abort(context: Any, error: HorenError, request_id: str | None) -> NoReturn:
    about = {} if request_id is None else {"request_id": request_id}
    try:
        await context.abort(status_of(error), shorten(error.message), trailing_metadata(error, about))
    except grpc.aio.InternalError:
        # The client has left; gRPC would log what was to be said to it, with the client's own words.
        raise asyncio.CancelledError from None
    raise AssertionError("abort returned")


def _error(call: Call, exc: Exception) -> HorenError:
    if isinstance(exc, HorenError) and not isinstance(exc, Internal):
        return exc
    incident = secrets.token_hex(8)
    log_defect(call, incident, exc)
    what = exc.message.rstrip(".") if isinstance(exc, HorenError) else "unexpected error"
    code = exc.code if isinstance(exc, HorenError) else None
    return Internal(f"{what}; the log of the control plane has it under {incident}.", code=code)
