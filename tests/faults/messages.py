"""Messages that look valid, made from descriptors: extreme numbers, odd texts, wrong enum values, deep nesting."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

MARK: Final = "⁂ marked ⁂"
"""Stands in many texts; no valid name has it, so no log line may."""

_DEEPEST: Final = 5
_INT32: Final = (0, 1, -1, 2, 1000, 2**31 - 1, -(2**31))
_INT64: Final = (*_INT32, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
_UINT32: Final = (0, 1, 1001, 2**32 - 1)
_UINT64: Final = (*_UINT32, 2**63, 2**64 - 1)
_FLOATS: Final = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-300, 1e300, 3.4e38, float("inf"), float("-inf"), float("nan"))
_TEXTS: Final = (
    "",
    " ",
    MARK,
    f"Who leads {MARK}?",
    "x",
    "\x00",
    f"a\x00{MARK}",
    "é" * 300,
    f"{MARK} " + "long " * 8_000,
    "\u202e\ufeff\U0010ffff",
    "\ud7ff\ue000",
    "' OR 1=1; --",
    "%s%n{0}$(id)",
    "../../etc/passwd",
    "-",
    "*",
    "0",
    "-1",
    "9" * 40,
)
_T: Final = FieldDescriptor
_NUMBERS: Final[Mapping[int, Sequence[Any]]] = {
    **dict.fromkeys((_T.TYPE_INT32, _T.TYPE_SINT32, _T.TYPE_SFIXED32), _INT32),
    **dict.fromkeys((_T.TYPE_INT64, _T.TYPE_SINT64, _T.TYPE_SFIXED64), _INT64),
    **dict.fromkeys((_T.TYPE_UINT32, _T.TYPE_FIXED32), _UINT32),
    **dict.fromkeys((_T.TYPE_UINT64, _T.TYPE_FIXED64), _UINT64),
    **dict.fromkeys((_T.TYPE_FLOAT, _T.TYPE_DOUBLE), _FLOATS),
    _T.TYPE_BOOL: (False, True),
    _T.TYPE_BYTES: (b"", b"\x00\xff", b"PK\x03\x04", b"{}", MARK.encode(), b"\n" * 5_000),
}


@dataclass(frozen=True)
class Maker:
    """Makes messages of any type.

    Parameters
    ----------
    random
        Decides on everything.
    known
        Values that mean something to the server, by the name of the field, or of message and field: without them hardly
        any message would get past its first check.
    """

    random: random.Random
    known: Mapping[str, Sequence[Any]]

    def message(self, kind: Descriptor) -> Message:
        """Return a message; fields are set or not, and some of them are as odd as can be."""
        return self._message(kind, 0, self.random.choice((0.0, 0.05, 0.3, 1.0)))

    def _message(self, kind: Descriptor, depth: int, oddness: float) -> Message:
        made: Message = message_factory.GetMessageClass(kind)()
        for field in kind.fields:
            odd = self.random.random() < oddness
            wanted = 0.75 if odd else 0.95 if self._known(field) else 0.5 * (field.type == _T.TYPE_MESSAGE)
            if depth < _DEEPEST and self.random.random() < wanted:
                self._set(made, field, depth, oddness if field.type == _T.TYPE_MESSAGE else float(odd))
        return made

    def garbage(self, kind: Descriptor) -> bytes:
        """Return bytes that are no message, or nearly one: damaged texts and lengths, what follows a valid one."""
        data = bytearray(self.message(kind).SerializeToString())
        how = self.random.randrange(5)
        if how == 0 or not data:
            return self.random.randbytes(self.random.choice((0, 1, 7, 64, 4_000)))
        if how == 1:
            # A lone half of a surrogate pair, as UTF-8 may not have it: where a text has three bytes for it.
            return bytes(data).replace("⁂".encode(), b"\xed\xa0\x80")
        if how == 2:
            return bytes(data[: self.random.randrange(len(data))])
        if how == 3:
            # Groups within groups, deeper than any parser goes.
            return bytes(data) + b"\x0b" * self.random.choice((10, 100_000))
        for _ in range(self.random.randint(1, 8)):
            data[self.random.randrange(len(data))] = self.random.randrange(256)
        return bytes(data)

    def _known(self, field: FieldDescriptor) -> Sequence[Any]:
        assert field.containing_type is not None, "no field here is an extension"
        return self.known.get(f"{field.containing_type.name}.{field.name}") or self.known.get(field.name, ())

    def _set(self, made: Message, field: FieldDescriptor, depth: int, oddness: float) -> None:
        if _is_map(field):
            for _ in range(self.random.randint(0, 2)):
                self._put(getattr(made, field.name), field, depth, oddness)
        elif field.is_repeated:
            times = self.random.choice((0, 1, 2, 3, 70) if oddness and not depth else (0, 1, 2))
            values = [self._value(field, depth, oddness) for _ in range(times)]
            getattr(made, field.name).extend(values)
        elif field.type == _T.TYPE_MESSAGE:
            getattr(made, field.name).CopyFrom(self._value(field, depth, oddness))
        else:
            setattr(made, field.name, self._value(field, depth, oddness))

    def _put(self, entries: Any, field: FieldDescriptor, depth: int, oddness: float) -> None:
        assert field.message_type is not None, "a map has a message for its entries"
        parts = field.message_type.fields_by_name
        key = self._value(parts["key"], depth, oddness, name=field.name)
        if parts["value"].type == _T.TYPE_MESSAGE:
            entries[key].CopyFrom(self._value(parts["value"], depth, oddness))
        else:
            entries[key] = self._value(parts["value"], depth, oddness)

    def _value(self, field: FieldDescriptor, depth: int, oddness: float, name: str | None = None) -> Any:
        if field.type == _T.TYPE_MESSAGE:
            assert field.message_type is not None, "its type says so"
            return self._message(field.message_type, depth + 1, oddness)
        known = self.known.get(name, ()) if name else self._known(field)
        if known and self.random.random() >= oddness:
            return self.random.choice(known)
        if field.type == _T.TYPE_ENUM:
            assert field.enum_type is not None, "its type says so"
            return self.random.choice([*(it.number for it in field.enum_type.values), 99, -1])
        return self.random.choice(_TEXTS if field.type == _T.TYPE_STRING else _NUMBERS[field.type])


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
