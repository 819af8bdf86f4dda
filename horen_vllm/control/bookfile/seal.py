"""The seal: the archive's comment, its last 64 bytes, is the sha256 of all bytes before it.

A zip archive has checks of its own, but not of its directory, and none that a cut or patched file surely breaks.
"""

import hashlib
import os
from typing import BinaryIO, Final

from horen_vllm.control.bookfile.layout import invalid_export

SEAL_BYTES: Final = 64
PLACEHOLDER: Final = b"0" * SEAL_BYTES
"""Comment of an archive that is still to be sealed."""
_PIECE: Final = 1024**2


def seal(file: BinaryIO) -> str:
    """Put the hash in the placeholder's place, and return it."""
    size = file.seek(0, os.SEEK_END)
    digest = _digest(file, size - SEAL_BYTES)
    file.seek(size - SEAL_BYTES)
    file.write(digest.encode())
    return digest


def sealed_digest(file: BinaryIO) -> str:
    """Return the hash that a whole and unaltered file is sealed with.

    Raises
    ------
    InvalidArgument
        ``invalid_export``, for any other file.
    """
    size = file.seek(0, os.SEEK_END)
    if size <= SEAL_BYTES:
        raise invalid_export("it is too short")
    digest = _digest(file, size - SEAL_BYTES)
    if file.read(SEAL_BYTES) != digest.encode():
        raise invalid_export("its bytes do not have the hash at its end")
    return digest


def _digest(file: BinaryIO, size: int) -> str:
    # Leaves the file at `size`.
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0:
        piece = file.read(min(_PIECE, size))
        if not piece:
            break
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()
