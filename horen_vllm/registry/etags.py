"""Etags: short hashes of what a client may have based a decision on.

The control plane may add what only it knows, such as how many servers answer, behind a full stop: a watch's cursor must
tell such states apart, and a change must not be refused because of them.
"""

import hashlib
import json
from typing import Any, Final

from horen_vllm.errors import Aborted
from horen_vllm.registry.models import CodebookRecord, EditRecord

_LENGTH: Final = 16
"""Hexadecimal digits."""
SEPARATOR: Final = "."
"""Ends the part of an etag that `require_etag` compares."""


def codebook_etag(record: CodebookRecord) -> str:
    """Return the etag of a codebook: its revision, its parameters, and whether it was deleted."""
    return _hash(record.revision, record.parameters.to_dict(), record.deleted_at is not None)


def edit_etag(record: EditRecord) -> str:
    """Return the etag of an edit: how far it has come, in which attempt, whether it is active or was retired."""
    return _hash(record.state.value, record.active, record.retired_at is not None, record.attempt)


def require_etag(given: str | None, actual: str) -> None:
    """Check that a client has seen the present state; None and an empty etag stand for "whatever it is".

    Raises
    ------
    Aborted
        ``etag_mismatch``.
    """
    if given and given.partition(SEPARATOR)[0] != actual.partition(SEPARATOR)[0]:
        message = f"It has changed since it was read: its etag is {actual!r}, not {given[: 2 * _LENGTH]!r}."
        raise Aborted(message, code="etag_mismatch")


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_LENGTH]
