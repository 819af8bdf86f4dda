"""A local folder before a store that is far away: what was read once is read here, verified each time.

The folder is only a copy. Whatever is wrong with it, missing files, damage, a full disk, costs a request to the store
and nothing else.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from horen_vllm.artifacts.folder import write_durably
from horen_vllm.artifacts.store import (
    SUFFIX,
    ArtifactStore,
    StoredArtifact,
    digest_of,
    file_of,
    read_ahead,
)

DEFAULT_CACHE_MIB: Final = 4096
_TEMPORARY: Final = ".put-"
_LOCK: Final = "lock"
_LOW_WATER: Final = 0.9
"""Share of the bound down to which files are removed, so that not every further file has to look through the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFolder:
    """A folder for copies of artifacts; several processes may share it."""

    folder: Path
    max_bytes: int
    """Most bytes of copies in it. A file that is larger is not kept."""


def default_cache_folder() -> Path:
    """Return the user's own folder for such copies, by the XDG rules; a temporary one for a user without a home."""
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        caches = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    return caches / "horen" / "artifacts"


class CachedArtifacts:
    """`ArtifactStore` that keeps copies of what is read from another one.

    Parameters
    ----------
    store
        Where the artifacts are.
    cache
        Where the copies are, the least recently read going first.
    """

    def __init__(self, store: ArtifactStore, cache: CacheFolder) -> None:
        self._store = store
        self._copies = _Copies(cache)

    def where(self, digest: str) -> str:
        """Return where the store has the file."""
        return self._store.where(digest)

    def put(self, data: bytes) -> str:
        """Store `data` in the store itself; raises as the store's `put`."""
        return self._store.put(data)

    def read(self, digest: str) -> bytes:
        """Return the bytes with this sha256, from the folder if it has them; raises as the store's `read`."""
        data = self._copies.read(digest)
        if data is None:
            data = self._store.read(digest)
            self._copies.add(digest, data)
        return data

    def read_many(self, digests: Iterable[str]) -> Iterator[bytes]:
        """Yield the bytes with these hashes, in order, asking for several at once; raises as `read`."""
        return read_ahead(self.read, digests)

    def fetch(self, digest: str, target: Path) -> None:
        """Write the file as `target`, verified, durably and all at once; raises as `read`, or OSError."""
        write_durably(target, self.read(digest))

    def find(self, digest: str) -> StoredArtifact | None:
        """Return what the store knows of the file."""
        return self._store.find(digest)

    def list(self) -> Iterator[StoredArtifact]:
        """Yield every artifact of the store."""
        return self._store.list()

    def delete(self, digest: str) -> None:
        """Remove the file from the store and its copy from this folder; copies elsewhere go with time."""
        self._store.delete(digest)
        self._copies.drop(digest)


class _Copies:
    """The files in the folder, and how many bytes they are.

    ``lock`` is held while a file is added and holds the sum of sizes, never less than the files have: a process that
    dies in between leaves a sum that is too high, and the next look through the folder corrects it.
    """

    def __init__(self, cache: CacheFolder) -> None:
        self._folder = cache.folder
        self._max_bytes = cache.max_bytes
        self._warned = False

    def read(self, digest: str) -> bytes | None:
        path = self._folder / file_of(digest)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if digest_of(data) != digest:
            self.drop(digest)
            return None
        with suppress(OSError):
            os.utime(path)  # the least recently read go first
        return data

    def drop(self, digest: str) -> None:
        with suppress(OSError):
            (self._folder / file_of(digest)).unlink()

    def add(self, digest: str, data: bytes) -> None:
        if len(data) > self._max_bytes:
            return
        try:
            self._add(self._folder / file_of(digest), data)
        except OSError as exc:
            if not self._warned:
                self._warned = True
                log = structlog.get_logger()
                log.warning("artifact cache is not written", folder=str(self._folder), reason=exc.strerror)

    def _add(self, path: Path, data: bytes) -> None:
        # Artifacts hold what tenants asked, as token ids.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        with self._locked() as total:
            held = total.read()
            if path.exists():
                return
            if held is None or held + len(data) > self._max_bytes:
                held = self._make_room(len(data))
            # Before the file: after a crash here the sum is too high, which only makes room early.
            total.write(held + len(data))
            _replace(path, data)

    @contextmanager
    def _locked(self) -> Iterator["_Total"]:
        # A file of its own for each holder, for locks belong to open files: threads wait for each other, too.
        handle = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield _Total(handle)
        finally:
            os.close(handle)

    def _make_room(self, size: int) -> int:
        """Remove the least recently read until `size` bytes fit; return how many bytes are left."""
        for path in self._folder.glob(f"??/{_TEMPORARY}*"):
            path.unlink(missing_ok=True)  # whoever wrote it held the lock, and is dead
        files = sorted(self._files())
        held = sum(bytes_ for _, bytes_, _ in files)
        wanted = min(int(_LOW_WATER * self._max_bytes), self._max_bytes - size)
        for _, bytes_, path in files:
            if held <= wanted:
                break
            path.unlink(missing_ok=True)
            held -= bytes_
        return held

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        for path in self._folder.glob(f"??/*{SUFFIX}"):
            with suppress(FileNotFoundError):  # dropped meanwhile
                found = path.stat()
                yield found.st_mtime_ns, found.st_size, path


@dataclass(frozen=True, slots=True)
class _Total:
    """The number that stands in the lock file."""

    handle: int

    def read(self) -> int | None:
        try:
            return int(os.pread(self.handle, 32, 0))
        except ValueError:
            return None

    def write(self, value: int) -> None:
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, str(value).encode(), 0)


def _replace(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
