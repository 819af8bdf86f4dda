"""Artifacts in a local folder."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from horen_vllm.artifacts.store import SUFFIX, StoredArtifact, digest_in, digest_of, file_of, unknown, verified
from horen_vllm.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from horen_vllm.failpoints import failpoint


class ArtifactFolder:
    """`ArtifactStore` on a folder of this machine, or one that several machines have mounted.

    Parameters
    ----------
    root
        The folder; made on first write.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, digest: str) -> Path:
        """Return where the file with this sha256 (hex) stands, whether it exists or not."""
        return self._root / file_of(digest)

    def where(self, digest: str) -> str:
        """Return the file's path."""
        return str(self.path(digest))

    def put(self, data: bytes) -> str:
        """Store `data` durably (temp, fsync, rename) and return its sha256 in hex."""
        digest = digest_of(data)
        with translated():
            if not self._has(digest):
                write_durably(self.path(digest), data)
        return digest

    def read(self, digest: str) -> bytes:
        """Return the bytes with this sha256; NotFound ``unknown_artifact``, DataLoss ``artifact_corrupt``."""
        with translated():
            try:
                data = self.path(digest).read_bytes()
            except FileNotFoundError as exc:
                raise unknown(digest) from exc
        return verified(data, digest)

    def read_many(self, digests: Iterable[str]) -> Iterator[bytes]:
        """Yield the bytes with these hashes, in order; raises as `read`."""
        return map(self.read, digests)

    def fetch(self, digest: str, target: Path) -> None:
        """Write the file as `target`, verified, durably and all at once; raises as `read`, or OSError."""
        write_durably(target, self.read(digest))

    def find(self, digest: str) -> StoredArtifact | None:
        """Return size and age of the file; None when there is none."""
        with translated():
            return _stored(self.path(digest), digest)

    def list(self) -> Iterator[StoredArtifact]:
        """Yield every artifact; other files are left out."""
        with translated():
            for path in self._root.glob(f"??/*{SUFFIX}"):
                digest = digest_in(path.name)
                stored = None if digest is None else _stored(path, digest)
                if stored is not None:
                    yield stored

    def delete(self, digest: str) -> None:
        """Remove the file durably; harmless when there is none."""
        path = self.path(digest)
        with translated():
            path.unlink(missing_ok=True)
            if path.parent.exists():
                _sync_folder(path.parent)

    def _has(self, digest: str) -> bool:
        try:
            self.read(digest)
        except (NotFound, DataLoss):
            return False
        return True


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of the file system into ours.

    Raises
    ------
    FailedPrecondition
        ``artifacts_forbidden``, when this process may not read or write there.
    Unavailable
        ``artifacts_unavailable``, for all others, such as a full disk.
    """
    try:
        yield
    except PermissionError as exc:
        message = f"the artifact folder may not be used by this process: {exc}."
        raise FailedPrecondition(message, code="artifacts_forbidden") from exc
    except OSError as exc:
        raise Unavailable(f"the artifact folder cannot be used: {exc}.", code="artifacts_unavailable") from exc


def write_durably(target: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all, also after a power cut; its folders are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    failpoint("artifact.before_temp")
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".put-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        failpoint("artifact.before_rename")
        Path(temporary).replace(target)
        failpoint("artifact.after_rename")
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)
    failpoint("artifact.after_sync")


def _stored(path: Path, digest: str) -> StoredArtifact | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    modified_at = datetime.fromtimestamp(found.st_mtime, UTC)
    return StoredArtifact(digest=digest, size=found.st_size, modified_at=modified_at)


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut, not only the file's content.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
