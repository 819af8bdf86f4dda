"""Field masks: which fields a client wants to read or to change."""

from typing import Any, Final, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from horen_vllm.errors import InvalidArgument

M = TypeVar("M", bound=Message)

_ALL: Final = "*"
_SHOWN: Final = 80
"""Characters of a path that a refusal repeats."""


def check_read_mask(request: Any, kind: Any) -> FieldMask | None:
    """Return the ``read_mask`` of a request for messages of the class `kind`; None where it wants all fields.

    Raises
    ------
    InvalidArgument
        ``invalid_field_mask``, for a path that no field has.
    """
    if not request.HasField("read_mask"):
        return None
    return check_mask(request.read_mask, kind, "read_mask")


def check_mask(mask: FieldMask, kind: Any, field: str) -> FieldMask | None:
    """Return a mask that names fields of messages of the class `kind`; None for all of them (``*`` or no path).

    Raises
    ------
    InvalidArgument
        ``invalid_field_mask``.
    """
    if not mask.paths or list(mask.paths) == [_ALL]:
        return None
    for path in mask.paths:
        if not FieldMask(paths=[path]).IsValidForDescriptor(kind.DESCRIPTOR):
            message = f"{field} names {path[:_SHOWN]!r}; {kind.DESCRIPTOR.name} has no such field."
            raise InvalidArgument(message, code="invalid_field_mask")
    return mask


def masked(message: M, mask: FieldMask | None) -> M:
    """Return a message with those fields only that `mask` names; None: as it is."""
    if mask is None:
        return message
    chosen = type(message)()
    mask.MergeMessage(message, chosen)
    return chosen
