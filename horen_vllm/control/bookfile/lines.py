"""The lines of ``edits.jsonl``: one edit each, in the order in which they were submitted."""

import json
import re
from collections.abc import Iterator
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Any, BinaryIO, Final

from horen_vllm.control import limits
from horen_vllm.control.bookfile.layout import MAX_EDITS, MAX_EDITS_BYTES, MAX_LINE_BYTES, invalid_export
from horen_vllm.errors import InvalidArgument
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.portable import PortableEdit, PortableState

_SPEC: Final = ("prompt", "target", "subject", "aliases", "paraphrases", "must_not_fire")
_TIMES: Final = ("expires_at", "retired_at")
_ID: Final = re.compile(r"[a-z0-9]{1,64}")
_FIELDS: Final = frozenset(
    {*_SPEC, *_TIMES, "origin", "edit_id", "sequence", "state", "artifact", "alias_of", "same_as", "supersedes"}
)


def edit_to_line(edit: PortableEdit) -> bytes:
    """Return the line of an edit."""
    spec = edit.spec
    fields: dict[str, Any] = {name: getattr(spec, name) for name in _SPEC}
    fields |= {
        "origin": edit.origin,
        "edit_id": edit.edit_id,
        "sequence": edit.sequence,
        "state": edit.state.value,
        "artifact": edit.artifact,
        "alias_of": edit.alias_of,
        "same_as": edit.same_as,
        "supersedes": edit.supersedes,
        "expires_at": None if edit.expires_at is None else edit.expires_at.isoformat(),
        "retired_at": None if edit.retired_at is None else edit.retired_at.isoformat(),
    }
    return json.dumps(fields, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def read_lines(file: BinaryIO) -> Iterator[PortableEdit]:
    """Yield the edits of a file, one line in memory at a time.

    Raises
    ------
    InvalidArgument
        ``invalid_export``.
    """
    total, count, sequence = 0, 0, 0
    origins: set[EditId] = set()
    while line := file.readline(MAX_LINE_BYTES + 1):
        total, count = total + len(line), count + 1
        if len(line) > MAX_LINE_BYTES or total > MAX_EDITS_BYTES or count > MAX_EDITS:
            raise invalid_export(f"its edits are too many or too large at number {count}")
        edit = _edit_from_line(line, count)
        if edit.sequence <= sequence or edit.origin in origins:
            raise invalid_export(f"edit {count} is out of order, or there twice")
        sequence = edit.sequence
        origins.add(edit.origin)
        yield edit


def _edit_from_line(line: bytes, number: int) -> PortableEdit:
    try:
        fields: dict[str, Any] = json.loads(line)
        edit = _edit(fields)
        limits.check_spec(edit.spec)
    except InvalidArgument as exc:
        raise invalid_export(f"edit {number}: {exc.message.rstrip('.')}") from exc
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise invalid_export(f"edit {number} cannot be read") from exc
    return edit


def _edit(fields: dict[str, Any]) -> PortableEdit:
    if set(fields) != _FIELDS:
        raise ValueError("other fields than an edit's")
    state = PortableState(fields["state"])
    times = {name: None if fields[name] is None else _time(fields[name]) for name in _TIMES}
    artifact = fields["artifact"]
    if artifact is not None:
        limits.check_digest(artifact)
    if state is PortableState.ACTIVE and artifact is None:
        raise ValueError("an entry without an artifact")
    if type(fields["sequence"]) is not int:
        raise TypeError("sequence is no number")
    return PortableEdit(
        origin=_id(fields["origin"]),
        edit_id=_id(fields["edit_id"]),
        sequence=fields["sequence"],
        spec=_spec(fields),
        state=state,
        artifact=artifact,
        alias_of=None if fields["alias_of"] is None else _id(fields["alias_of"]),
        same_as=None if fields["same_as"] is None else _id(fields["same_as"]),
        supersedes=tuple(map(_id, _list(fields["supersedes"]))),
        **times,
    )


def _spec(fields: dict[str, Any]) -> EditSpec:
    lists = [tuple(_list(fields[name])) for name in ("aliases", "paraphrases", "must_not_fire")]
    texts = [fields[name] for name in ("prompt", "target", "subject")]
    for text in (*texts[:2], *texts[2:][: texts[2] is not None], *(text for items in lists for text in items)):
        if not isinstance(text, str):
            raise TypeError("a text is none")
    return EditSpec(
        prompt=texts[0],
        target=texts[1],
        subject=texts[2],
        aliases=lists[0],
        paraphrases=lists[1],
        must_not_fire=lists[2],
    )


def _list(items: Any) -> list[Any]:
    if not isinstance(items, list):
        raise TypeError("not a list")
    return items


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    # Databases and messages tell times in zones of their own, in which the first and the last year may not exist.
    if time.tzinfo is None or not MINYEAR < time.year < MAXYEAR:
        raise ValueError("a time without a zone, or in a year that is none elsewhere")
    return time


def _id(text: Any) -> EditId:
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise ValueError("not an edit's id")
    return EditId(text)
