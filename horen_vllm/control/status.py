"""Errors to gRPC statuses and back: one table, read in both directions."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc
from google.rpc.status_pb2 import Status

from horen_vllm.control.error_details import details_of, read_details
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

STATUS_OF: Final[dict[type[HorenError], grpc.StatusCode]] = {
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    Aborted: grpc.StatusCode.ABORTED,
    ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DataLoss: grpc.StatusCode.DATA_LOSS,
    Internal: grpc.StatusCode.INTERNAL,
}
CODE_KEY: Final = "horen-error-code"
"""Trailing metadata key of the error's slug."""
DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailing metadata key of the standard ``google.rpc.Status``."""
MAX_MESSAGE: Final = 400
"""Characters of a status message: gRPC peers refuse trailing metadata beyond 8 KiB, percent-encoded."""


def status_of(error: HorenError) -> grpc.StatusCode:
    """Return the status of an error: its class's, or that of the nearest base class in the table."""
    bases = (STATUS_OF[base] for base in type(error).__mro__ if base in STATUS_OF)
    return next(bases, grpc.StatusCode.INTERNAL)


def trailing_metadata(error: HorenError, about: Mapping[str, str] | None = None) -> tuple[tuple[str, str | bytes], ...]:
    """Return what travels beside the status: the slug, and the details of ``google.rpc`` with `about`."""
    number: int = status_of(error).value[0]
    status = Status(code=number, message=shorten(error.message), details=details_of(error, about))
    return (CODE_KEY, error.code), (DETAILS_KEY, status.SerializeToString())


def shorten(message: str) -> str:
    """Return `message`, cut to `MAX_MESSAGE` characters."""
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 3]}..."


def error_of(number: int, message: str, code: str) -> HorenError:
    """Return the error with a status of this number."""
    classes = {status.value[0]: cls for cls, status in STATUS_OF.items()}
    return classes.get(number, Internal)(message, code=code)


def error_from_rpc(failure: Any, address: str) -> HorenError:
    """Return the error that a failed call stands for.

    Parameters
    ----------
    failure
        The ``grpc.RpcError``, which is also the finished call.
    address
        Where the call went; named when nobody answered there.
    """
    status, message = failure.code(), failure.details() or ""
    code = _slug(failure.trailing_metadata())
    if code is not None:
        kind = {known: cls for cls, known in STATUS_OF.items()}.get(status, Internal)
        return kind(message, code=code, **read_details(kind, _details(failure.trailing_metadata())))
    if status in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return Unavailable(f"the control plane at {address} does not answer: {message}", code="control_unavailable")
    if status == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"the control plane at {address} did not answer in time.", code="control_timeout")
    if status == grpc.StatusCode.UNIMPLEMENTED:
        return FailedPrecondition(f"the server at {address} does not know this call.", code="unknown_method")
    if status == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return InvalidArgument(f"the message is too large: {message}", code="message_too_large")
    return Internal(f"the control plane at {address} failed: {message}")


def _slug(metadata: Sequence[tuple[str, str | bytes]] | None) -> str | None:
    values = (value for key, value in metadata or () if key == CODE_KEY)
    return next((value for value in values if isinstance(value, str)), None)


def _details(metadata: Sequence[tuple[str, str | bytes]] | None) -> bytes:
    values = (value for key, value in metadata or () if key == DETAILS_KEY)
    return next((value for value in values if isinstance(value, bytes)), b"")
