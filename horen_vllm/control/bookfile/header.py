"""The file's header, ``codebook.json``: what the edits were exported from."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from horen_vllm.control.bookfile.layout import FORMAT_VERSION, invalid_export
from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class BookHeader:
    """What the edits of a file were exported from."""

    codebook: str
    """Resource name, where it was exported."""
    model: str
    fingerprint: str
    site: str
    parameters: MethodParameters
    """With the threshold of `revision`."""
    revision: int
    entries: int
    """Entries of the revision; those retired since are tombstones of the file."""
    exported_at: datetime
    """In UTC."""


def header_to_json(header: BookHeader) -> str:
    """Return the text of a header."""
    fields = {
        "format_version": FORMAT_VERSION,
        "codebook": header.codebook,
        "model": header.model,
        "fingerprint": header.fingerprint,
        "site": header.site,
        "parameters": header.parameters.to_dict(),
        "revision": header.revision,
        "entries": header.entries,
        "exported_at": header.exported_at.isoformat(),
    }
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def header_from_json(text: bytes) -> BookHeader:
    """Read what `header_to_json` wrote.

    Raises
    ------
    InvalidArgument
        ``invalid_export``.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        version = fields.pop("format_version")
        if version != FORMAT_VERSION:
            raise invalid_export(f"its format is version {version}, and this build reads {FORMAT_VERSION}")
        header = BookHeader(
            **{
                **fields,
                "parameters": MethodParameters.from_dict(fields["parameters"]),
                "exported_at": datetime.fromisoformat(fields["exported_at"]),
            }
        )
    except InvalidArgument as exc:
        raise exc if exc.code == "invalid_export" else invalid_export(exc.message.rstrip(".")) from exc
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise invalid_export("its header cannot be read") from exc
    _check(header)
    return header


def _check(header: BookHeader) -> None:
    texts = (header.codebook, header.model, header.fingerprint, header.site)
    numbers = (header.revision, header.entries)
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise invalid_export("a field of its header has the wrong type")
    if header.revision < 1 or header.entries < 0:
        raise invalid_export("its header has a number out of range")
