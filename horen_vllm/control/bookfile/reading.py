"""Reading a codebook's file: nothing of it is believed before it was checked."""

import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

from horen_vllm.artifacts.store import digest_of
from horen_vllm.control.bookfile.header import BookHeader, header_from_json
from horen_vllm.control.bookfile.layout import (
    EDITS,
    HEADER,
    MAX_ARTIFACT_BYTES,
    MAX_ARTIFACTS,
    MAX_EDITS_BYTES,
    MAX_HEADER_BYTES,
    artifact_member,
    invalid_export,
    member_digest,
)
from horen_vllm.control.bookfile.lines import read_lines
from horen_vllm.control.bookfile.seal import sealed_digest
from horen_vllm.registry.portable import PortableEdit

_ENCRYPTED: Final = 0x1
_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
"""What the archive's readers raise for bytes that are no archive."""


class BookReader:
    """Reads header, edits and artifacts of a file, a part at a time.

    Parameters
    ----------
    file
        A whole file, which can be sought.

    Attributes
    ----------
    digest
        sha256 (hex) of the file: the same for the same content.
    header
        What the file is of.

    Raises
    ------
    InvalidArgument
        ``invalid_export``, for a file that no export wrote, or that was cut or altered since.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.digest = sealed_digest(file)
        try:
            self._archive = zipfile.ZipFile(file)
        except _BROKEN as exc:
            raise invalid_export("it is no zip archive") from exc
        self._members = _checked_members(self._archive)
        self.header: BookHeader = header_from_json(self._read(HEADER))

    def edits(self) -> Iterator[PortableEdit]:
        """Yield the edits, oldest first; InvalidArgument ``invalid_export``."""
        try:
            with self._archive.open(self._members[EDITS]) as member:
                yield from read_lines(member)  # type: ignore[arg-type]
        except _BROKEN as exc:
            raise invalid_export("its edits cannot be unpacked") from exc

    def has_artifact(self, digest: str) -> bool:
        """Return whether the file has an artifact."""
        return artifact_member(digest) in self._members

    def artifact(self, digest: str) -> bytes:
        """Return an artifact, verified; InvalidArgument ``invalid_export``."""
        if not self.has_artifact(digest):
            raise invalid_export(f"artifact {digest} is not in it")
        data = self._read(artifact_member(digest))
        if digest_of(data) != digest:
            raise invalid_export(f"artifact {digest} does not have the content it is named after")
        return data

    def _read(self, name: str) -> bytes:
        try:
            return self._archive.read(self._members[name])
        except _BROKEN as exc:
            raise invalid_export(f"{name} cannot be unpacked") from exc


def _checked_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name; none of another name, none twice, none larger than allowed."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in members:
            raise invalid_export("a member is there twice")
        _check_member(info)
        members[info.filename] = info
    if not {HEADER, EDITS} <= members.keys() or len(members) > MAX_ARTIFACTS + 2:
        raise invalid_export(f"it has no {HEADER} or {EDITS}, or too many artifacts")
    return members


def _check_member(info: zipfile.ZipInfo) -> None:
    most = {HEADER: MAX_HEADER_BYTES, EDITS: MAX_EDITS_BYTES}.get(info.filename)
    if most is None and member_digest(info.filename) is None:
        raise invalid_export("it has a member of another name")
    if info.flag_bits & _ENCRYPTED or info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise invalid_export("a member is encrypted, or packed in another way")
    if info.file_size > (most or MAX_ARTIFACT_BYTES):
        raise invalid_export("a member is too large")
    # Only text packs well; an artifact that claims to be larger than its bytes in the file is a bomb.
    if most is None and info.compress_type != zipfile.ZIP_STORED:
        raise invalid_export("an artifact is packed")
