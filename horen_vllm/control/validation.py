"""The rules that stand in the protocol files, held against every request."""

from typing import Any, Final

from google.protobuf.message import Message
from protovalidate import EvaluationError, Validator, Violation

from horen_vllm.control.limits import violation_error
from horen_vllm.errors import FieldViolation, InvalidArgument

_VALIDATOR: Final = Validator()


def check_message(message: Message) -> None:
    """Check a request by the rules of its message.

    A rule's id is the error's code, and its message goes on where the field's name ends.

    Raises
    ------
    InvalidArgument
        With all violations and the code of the first; ``malformed_request``, for a time that is none.
    """
    try:
        found = _VALIDATOR.collect_violations(message)
    except EvaluationError as exc:
        # Such as a duration of more seconds than one can have.
        raise InvalidArgument("a time in the request is out of range.", code="malformed_request") from exc
    if found:
        raise violation_error([_violation(it) for it in found])


def _violation(found: Violation) -> FieldViolation:
    rule: Any = found.proto
    path = ".".join(map(_step, rule.field.elements))
    # What an edit says goes by its own names, as everywhere else.
    return FieldViolation(path, rule.rule_id, f"{path.removeprefix('spec.')}{_is(found.field_value)} {rule.message}")


def _is(value: Any) -> str:
    """Return what a sentence says of a number before it says what it must be."""
    return f" is {value}; it" if isinstance(value, int | float) else ""


def _step(element: Any) -> str:
    subscript = element.subscript
    return str(element.field_name) if subscript is None else f"{element.field_name}[{subscript.value}]"
