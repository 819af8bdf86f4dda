"""All methods of the protocol, and requests for them."""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor

from horen_vllm.control._pb.horen.v1 import admin_pb2, codebooks_pb2, edits_pb2, replicas_pb2

FILES: Final = (edits_pb2, codebooks_pb2, replicas_pb2, admin_pb2)
METHODS: Final[dict[str, Any]] = {
    f"{service.name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def kind_of(method: Any) -> str:
    """Return the name of a channel's function for a method, such as ``unary_stream``."""
    sides = (method.client_streaming, method.server_streaming)
    return "_".join("stream" if side else "unary" for side in sides)


def new_message(descriptor: Descriptor) -> Any:
    """Return an empty message of the protocol."""
    file = next(it for it in FILES if it.DESCRIPTOR.name == descriptor.file.name)
    return getattr(file, descriptor.name)()


def filled(descriptor: Descriptor, text: str, named: Mapping[str, str]) -> Any:
    """Return a message with `text` in every field for text or bytes, except those that are `named`."""
    message = new_message(descriptor)
    _fill(message, text, named)
    return message


def _fill(message: Any, text: str, named: Mapping[str, str]) -> None:
    for field in message.DESCRIPTOR.fields:
        value: Any = named.get(field.name, text)
        if field.type == field.TYPE_BYTES:
            value = value.encode()
        elif field.type == field.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
            if field.message_type.file.package == "horen.v1":
                inner = getattr(message, field.name)
                _fill(inner.add() if field.is_repeated else inner, text, named)
            continue
        elif field.type != field.TYPE_STRING:
            continue
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
