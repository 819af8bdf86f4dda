"""What travels with an error beside its code and sentence: the details of ``google.rpc``, written and read."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status

from horen_vllm.errors import FieldViolation, HorenError, InvalidArgument, ResourceExhausted

ERROR_DOMAIN: Final = "horen-vllm"
_MOST_VIOLATIONS: Final = 16
"""Violations that are sent; with the sentence of each cut, they fit into the 8 KiB of trailing metadata."""
_MOST_TEXT: Final = 160
"""Characters of a violation's sentence."""


def details_of(error: HorenError, about: Mapping[str, str] | None) -> list[AnyMessage]:
    """Return the details of an error.

    ``ErrorInfo`` with `about`; ``BadRequest`` where fields are wrong; ``QuotaFailure``, and ``RetryInfo`` where waiting
    helps, for a quota that is used up.
    """
    packed = []
    for message in (ErrorInfo(reason=error.code.upper(), domain=ERROR_DOMAIN, metadata=about), *_more(error)):
        packed.append(AnyMessage())
        packed[-1].Pack(message)
    return packed


def _more(error: HorenError) -> Iterator[Message]:
    if isinstance(error, InvalidArgument) and error.violations:
        found = [
            BadRequest.FieldViolation(field=it.field, description=it.message[:_MOST_TEXT], reason=it.code.upper())
            for it in error.violations[:_MOST_VIOLATIONS]
        ]
        yield BadRequest(field_violations=found)
    if isinstance(error, ResourceExhausted):
        violation = QuotaFailure.Violation(subject=error.subject, description=error.message[:_MOST_TEXT])
        yield QuotaFailure(violations=[violation])
        if error.retry_after_s is not None:
            delay = Duration()
            delay.FromNanoseconds(int(error.retry_after_s * 1e9))
            yield RetryInfo(retry_delay=delay)


def read_details(kind: type[HorenError], data: bytes) -> dict[str, Any]:
    """Return the arguments of an error of the class `kind` beside its code and sentence, from a ``google.rpc.Status``.

    What is not one says nothing.
    """
    status = Status()
    try:
        status.ParseFromString(data)
    except DecodeError:
        return {}
    if issubclass(kind, InvalidArgument):
        return {"violations": _violations(status)}
    if issubclass(kind, ResourceExhausted):
        return {"retry_after_s": _retry_after(status), "subject": _subject(status)}
    return {}


def _violations(status: Status) -> tuple[FieldViolation, ...]:
    found = BadRequest()
    _unpack(status, found)
    return tuple(FieldViolation(it.field, it.reason.lower(), it.description) for it in found.field_violations)


def _retry_after(status: Status) -> float | None:
    found = RetryInfo()
    return found.retry_delay.ToNanoseconds() / 1e9 if _unpack(status, found) else None


def _subject(status: Status) -> str:
    found = QuotaFailure()
    _unpack(status, found)
    return next((it.subject for it in found.violations), "")


def _unpack(status: Status, into: Message) -> bool:
    return any(detail.Unpack(into) for detail in status.details)
