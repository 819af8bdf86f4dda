"""Writing a codebook's file, a part at a time."""

import zipfile
from collections.abc import Iterable
from typing import BinaryIO, Final, Self

from horen_vllm.control.bookfile.header import BookHeader, header_to_json
from horen_vllm.control.bookfile.layout import EDITS, HEADER, artifact_member
from horen_vllm.control.bookfile.lines import edit_to_line
from horen_vllm.control.bookfile.seal import PLACEHOLDER, seal
from horen_vllm.registry.portable import PortableEdit, PortableState

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""Time of every member: equal content gives equal files."""


class BookWriter:
    """Writes header, edits and artifacts, in this order; a context manager, whose end makes the file whole.

    Parameters
    ----------
    file
        Where to: an empty file that can be read and sought; it is left open.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._archive = zipfile.ZipFile(file, "w", allowZip64=True)
        self._written: set[str] = set()

    def write_header(self, header: BookHeader) -> None:
        """Write what the file is of."""
        self._archive.writestr(_member(HEADER, zipfile.ZIP_DEFLATED), header_to_json(header))

    def write_edits(self, edits: Iterable[PortableEdit]) -> list[str]:
        """Write the edits, oldest first; return the artifacts that the file is to have for them, each once."""
        needed: dict[str, None] = {}
        with self._archive.open(_member(EDITS, zipfile.ZIP_DEFLATED), "w", force_zip64=True) as member:
            for edit in edits:
                member.write(edit_to_line(edit))
                if edit.state is PortableState.ACTIVE and edit.artifact is not None:
                    needed[edit.artifact] = None
        return list(needed)

    def write_artifact(self, digest: str, data: bytes) -> None:
        """Write an artifact, as it is: its numbers do not pack."""
        if digest not in self._written:
            self._written.add(digest)
            self._archive.writestr(_member(artifact_member(digest), zipfile.ZIP_STORED), data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        """Write the directory and, unless something went wrong, the seal."""
        self._archive.comment = PLACEHOLDER
        self._archive.close()
        if kind is None:
            seal(self._file)


def _member(name: str, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = method
    info.external_attr = 0o600 << 16
    return info
