"""What stands where in a codebook's file, and how large each part may be."""

import re
from typing import Final

from horen_vllm.errors import InvalidArgument

FORMAT_VERSION: Final = 1
HEADER: Final = "codebook.json"
EDITS: Final = "edits.jsonl"
MAX_FILE_BYTES: Final = 16 * 1024**3
MAX_HEADER_BYTES: Final = 1024**2
MAX_EDITS_BYTES: Final = 4 * 1024**3
"""Of all edits together, unpacked."""
MAX_LINE_BYTES: Final = 32 * 1024**2
"""Of one edit; the longest that `limits` allows has 26 MB."""
MAX_EDITS: Final = 1_000_000
MAX_ARTIFACTS: Final = 250_000
MAX_ARTIFACT_BYTES: Final = 512 * 1024**2
"""One is in memory at a time."""
_ARTIFACT: Final = re.compile(r"artifacts/(?P<digest>[0-9a-f]{64})\.safetensors")


def artifact_member(digest: str) -> str:
    """Return the name under which an artifact stands in the archive."""
    return f"artifacts/{digest}.safetensors"


def member_digest(name: str) -> str | None:
    """Return the digest of the artifact that a member is named after; None for another name."""
    found = _ARTIFACT.fullmatch(name)
    return None if found is None else found["digest"]


def invalid_export(why: str) -> InvalidArgument:
    """Return the error of a file that no export wrote."""
    return InvalidArgument(f"the file is not an export of a codebook, or it was altered: {why}.", code="invalid_export")
