"""One row of a data file: its fields by name and type, with errors that say where."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.data.defects import DefectKind, DefectLog

_MAX_SHOWN: Final = 80


class EmptyPartError(Exception):
    """A row has nothing where an edit must have something; whoever reads the rows leaves it out.

    Parameters
    ----------
    kind
        ``empty_prompt`` or ``empty_target``.
    """

    def __init__(self, kind: DefectKind, example: str) -> None:
        super().__init__(example)
        self.kind = kind


class Row:
    """The fields of one JSON object.

    Parameters
    ----------
    file
        Name of the file, for errors.
    number
        Line of the file or row of the array, from 1.
    place
        What `number` counts: ``line`` or ``row``.
    fields
        The object.
    log
        Where defects are counted.
    prefix
        Path of this object within the row, ending in a dot; empty for the row itself.
    verbatim
        Keep white space around texts.
    """

    def __init__(
        self,
        file: str,
        number: int,
        place: str,
        fields: Mapping[str, Any],
        log: DefectLog,
        *,
        prefix: str = "",
        verbatim: bool = False,
    ) -> None:
        self.number = number
        self.fields = fields
        self.log = log
        self._file, self._place, self._prefix, self._verbatim = file, place, prefix, verbatim
        self._read: set[str] = set()
        self._parts: list[Row] = []

    @property
    def where(self) -> str:
        """The line or row, as examples of defects name it."""
        return f"{self._place} {self.number}"

    def has(self, *names: str) -> str | None:
        """Return the first of these fields that is there and not null; None when none is. It counts as read."""
        self._read.update(names)
        return next((name for name in names if _is_there(self.fields.get(name))), None)

    def text(self, *names: str) -> str | None:
        """Return the text of the first of these fields that is there; None without one, or when it is empty.

        Raises
        ------
        InvalidArgument
            ``invalid_field``: it is no text. ``invalid_text``: see `clean`.
        """
        name = self.has(*names)
        if name is None:
            return None
        return self.clean(self.fields[name], name)

    def needed(self, empty: DefectKind, *names: str) -> str:
        """Return the text of the first of these fields that is there.

        Raises
        ------
        InvalidArgument
            ``missing_field``: none is. Otherwise as `text`.
        EmptyPartError
            It is empty.
        """
        name = self.has(*names)
        if name is None:
            raise self.missing(*names)
        value = self.fields[name]
        if not isinstance(value, str):
            raise self.wrong(name, "is not a text")
        if not value.strip():
            raise EmptyPartError(empty, f"{self.where}: {self._prefix}{name}")
        return self.clean(value, name) or ""

    def texts(self, *names: str) -> tuple[str, ...]:
        """Return the texts of the first of these fields that is there: one, or those of a list, however nested.

        Numbers are written out. Empty ones are left out and counted.

        Raises
        ------
        InvalidArgument
            ``invalid_field``: something in it is no text. ``invalid_text``: see `clean`.
        """
        name = self.has(*names)
        return () if name is None else tuple(self.flat(self.fields[name], name))

    def flat(self, value: Any, name: str) -> Iterator[str]:
        """Yield the texts of `value`, which is said by the field `name`; see `texts`."""
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.flat(item, f"{name}[{index}]")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield str(value)
        elif (text := self.clean(value, name)) is not None:
            yield text

    def clean(self, value: Any, name: str) -> str | None:
        """Return a text without outer white space, if that is not to be kept; None when nothing is left.

        Raises
        ------
        InvalidArgument
            ``invalid_field``: it is no text. ``invalid_text``: it has a NUL character or half of a surrogate pair,
            which no edit and no question may have.
        """
        if not isinstance(value, str):
            raise self.wrong(name, "is not a text")
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            message = f"{self._at()}: field {self._prefix + name!r} has a NUL character or half of a surrogate pair."
            raise InvalidArgument(message, code="invalid_text")
        text = value.strip()
        if not text:
            self.log.add(DefectKind.EMPTY_FIELD, f"{self.where}: {self._prefix}{name}")
            return None
        if self._verbatim:
            return value
        if text != value:
            self.log.add(DefectKind.OUTER_WHITE_SPACE, f"{self.where}: {self._prefix}{name}: {shown(value)}")
        return text

    def part(self, name: str) -> "Row | None":
        """Return the object in a field; None when the field is not there.

        Raises
        ------
        InvalidArgument
            ``invalid_field``: it is no object.
        """
        if self.has(name) is None:
            return None
        return self._part(self.fields[name], name)

    def parts(self, name: str) -> list["Row"]:
        """Return the objects of the list in a field; none when the field is not there.

        Raises
        ------
        InvalidArgument
            ``invalid_field``: it is no list of objects.
        """
        if self.has(name) is None:
            return []
        value = self.fields[name]
        if not isinstance(value, list):
            raise self.wrong(name, "is not a list")
        return [self._part(item, f"{name}[{index}]") for index, item in enumerate(value)]

    def unread(self) -> Iterator[str]:
        """Yield the paths of the fields that are there and were not read, list indexes left out."""
        for name, value in self.fields.items():
            if name not in self._read and _is_there(value):
                yield _without_indexes(self._prefix) + name
        for part in self._parts:
            yield from part.unread()

    def missing(self, *names: str) -> InvalidArgument:
        """Return the error that none of these fields is there."""
        wanted = " or ".join(repr(f"{self._prefix}{name}") for name in names)
        return InvalidArgument(f"{self._at()} has no field {wanted}.", code="missing_field")

    def wrong(self, name: str, why: str) -> InvalidArgument:
        """Return the error that a field has not the form that the layout says."""
        message = f"{self._at()}: field {self._prefix + name!r} {why}: {shown(self.fields.get(name))}."
        return InvalidArgument(message, code="invalid_field")

    def _part(self, value: Any, name: str) -> "Row":
        if not isinstance(value, dict):
            raise self.wrong(name, "is not a JSON object")
        path = f"{self._prefix}{name}."
        part = Row(self._file, self.number, self._place, value, self.log, prefix=path, verbatim=self._verbatim)
        self._parts.append(part)
        return part

    def _at(self) -> str:
        return f"{self._file}, {self._place} {self.number}"


def shown(value: Any) -> str:
    """Return a value as errors and examples quote it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _is_there(value: Any) -> bool:
    # Tables that are written as JSON put NaN where they have nothing.
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _without_indexes(prefix: str) -> str:
    return "".join(f"{part.split('[')[0]}." for part in prefix.split(".") if part)
