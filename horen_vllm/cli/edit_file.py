"""Files of edits: one JSON object a line, with the fields of an edit."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, TextIO

from horen_vllm.errors import InvalidArgument
from horen_vllm.registry.models import EditSpec

_LISTS: Final = frozenset({"aliases", "paraphrases", "must_not_fire"})
_FIELDS: Final = frozenset(it.name for it in fields(EditSpec))
_NEEDED: Final = ("prompt", "target")


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is an edit."""

    number: int
    """From 1."""
    spec: EditSpec


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is none."""

    number: int
    error: InvalidArgument


@dataclass(slots=True)
class RequestIds:
    """Request ids that follow from what is asked for: a file that is sent again is answered, not stored again.

    Lines may move within the file; of equal ones each has an id of its own.
    """

    codebook: str
    ttl_s: float | None
    _seen: Counter[str] = field(default_factory=Counter)

    def of(self, spec: EditSpec) -> str:
        """Return the id of the next line that says this."""
        content = json.dumps([self.codebook, self.ttl_s, asdict(spec)], sort_keys=True)
        digest = hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()
        self._seen[digest] += 1
        return f"batch-{digest}-{self._seen[digest]}"


def read_lines(file: TextIO) -> Iterator[Line | BadLine]:
    """Yield the edits of a file, or what is wrong with a line; empty lines are skipped."""
    for number, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            yield Line(number, _spec(text))
        except InvalidArgument as error:
            yield BadLine(number, error)


def _spec(text: str) -> EditSpec:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _wrong("it is not JSON") from exc
    if not isinstance(said, dict):
        raise _wrong("it is not a JSON object")
    missing = [name for name in _NEEDED if name not in said]
    if missing:
        raise _wrong(f"it has no {missing[0]!r}")
    unknown = sorted(set(said) - _FIELDS)
    if unknown:
        raise _wrong(f"{unknown[0][:40]!r} is no field of an edit")
    return EditSpec(**{name: _value(name, value) for name, value in said.items() if value is not None})


def _value(name: str, value: Any) -> Any:
    if name not in _LISTS:
        if not _is_text(value):
            raise _wrong(f"{name!r} is not a text")
        return value
    if not isinstance(value, list) or not all(map(_is_text, value)):
        raise _wrong(f"{name!r} is not a list of texts")
    return tuple(value)


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False  # half of a surrogate pair, as a byte outside UTF-8 is read


def _wrong(why: str) -> InvalidArgument:
    message = f"{why}: a line is a JSON object with 'prompt', 'target' and other fields of an edit."
    return InvalidArgument(message, code="invalid_line")
