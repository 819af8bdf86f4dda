"""Files of rows: JSON lines, or one JSON array."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.data.defects import DefectLog
from horen_vllm.evals.data.row import Row

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class RowFile:
    """The bytes of a data file.

    Attributes
    ----------
    name
        As errors name it.
    content
        Its bytes without a byte order mark.
    sha256
        Hash of all its bytes, in hexadecimal.
    is_array
        Whether it is one JSON array rather than an object a line.
    """

    name: str
    content: bytes
    sha256: str
    is_array: bool

    @property
    def place(self) -> str:
        """What its rows are numbered by: ``line`` or ``row``."""
        return "row" if self.is_array else "line"

    def rows(self, log: DefectLog, *, verbatim: bool = False) -> Iterator[Row]:
        """Yield the rows in order; lines end in a line feed alone, and empty ones are skipped.

        With `verbatim`, texts keep the white space around them.

        Raises
        ------
        InvalidArgument
            ``invalid_line``: a line or row is not a JSON object in UTF-8, or the file is not JSON.
        """
        for number, fields in self._array() if self.is_array else self._lines():
            yield Row(self.name, number, self.place, fields, log, verbatim=verbatim)

    def _lines(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        # Not `splitlines`: prompts may hold U+2028 and the like.
        for number, line in enumerate(self.content.split(b"\n"), start=1):
            if line.strip():
                where = f"{self.name}, line {number}"
                yield number, _object(_parsed(line, where), where)

    def _array(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, item in enumerate(_parsed(self.content, self.name), start=1):
            yield number, _object(item, f"{self.name}, row {number}")


def open_rows(path: Path) -> RowFile:
    """Return the file at `path`.

    Raises
    ------
    InvalidArgument
        ``file_unreadable``: there is none, or it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}."
        raise InvalidArgument(message, code="file_unreadable") from None
    text = content.removeprefix(_BYTE_ORDER_MARK)
    return RowFile(str(path), text, hashlib.sha256(content).hexdigest(), text.lstrip()[:1] == b"[")


def _parsed(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode(), parse_constant=_constant)
    except UnicodeDecodeError as error:
        message = f"{where}: byte {error.start + 1} is not UTF-8."
        raise InvalidArgument(message, code="invalid_line") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{where} is not JSON: {error}.", code="invalid_line") from None


def _constant(name: str) -> float:
    if name == "NaN":
        return float("nan")
    message = f"{name} is no JSON number"
    raise ValueError(message)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where} is not a JSON object.", code="invalid_line")
    return value
