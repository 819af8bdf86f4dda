"""What every artifact store offers, and what makes a file an artifact: its name is the sha256 of its bytes.

Knows nothing of what the files hold, nor of who needs them.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from horen_vllm.errors import DataLoss, NotFound

SUFFIX: Final = ".safetensors"
_FILE: Final = re.compile(rf"(?P<digest>[0-9a-f]{{64}}){re.escape(SUFFIX)}")
_READERS: Final = 16
"""Files that `read_ahead` asks for at once: over a network each waits for an answer and for little else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArtifact:
    """One file of a store."""

    digest: str
    size: int
    """In bytes, as it is stored; whether they are the right ones is not known."""
    modified_at: datetime
    """When it was last written, by the store's own clock."""


class ArtifactStore(Protocol):
    """Immutable files named by the sha256 (hex) of their content; several processes may share a store.

    Every method may raise `Unavailable` ``artifacts_unavailable`` when the store does not answer or has no room, and
    `FailedPrecondition` ``artifacts_forbidden`` when it refuses whoever asks.
    """

    def put(self, data: bytes) -> str:
        """Store `data` durably and return its sha256 in hex; storing twice is harmless, and mends what is damaged."""
        ...

    def read(self, digest: str) -> bytes:
        """Return the bytes with this sha256.

        Raises
        ------
        NotFound
            ``unknown_artifact``, when there is no such file.
        DataLoss
            ``artifact_corrupt``, when its bytes have another hash.
        """
        ...

    def read_many(self, digests: Iterable[str]) -> Iterator[bytes]:
        """Yield the bytes with these hashes, in order, a few in memory at a time; raises as `read`."""
        ...

    def fetch(self, digest: str, target: Path) -> None:
        """Write the file as `target`, verified, durably and all at once; raises as `read`, or OSError."""
        ...

    def find(self, digest: str) -> StoredArtifact | None:
        """Return what is known of the file without reading it; None when there is none."""
        ...

    def list(self) -> Iterator[StoredArtifact]:
        """Yield every artifact, in no order; other files beside them are left out."""
        ...

    def delete(self, digest: str) -> None:
        """Remove the file; harmless when there is none."""
        ...

    def where(self, digest: str) -> str:
        """Return where the file stands or would stand, for people."""
        ...


def digest_of(data: bytes) -> str:
    """Return the name of a file with this content: its sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def file_of(digest: str) -> str:
    """Return the path of an artifact below the root of any store."""
    return f"{digest[:2]}/{digest}{SUFFIX}"


def digest_in(name: str) -> str | None:
    """Return the digest that a file of this name (without folders) stands for; None when it is no artifact."""
    found = _FILE.fullmatch(name)
    return None if found is None else found["digest"]


def verified(data: bytes, digest: str) -> bytes:
    """Return `data` if its sha256 is `digest`; DataLoss ``artifact_corrupt``."""
    if digest_of(data) != digest:
        message = f"artifact {digest} does not have the content it was stored with."
        raise DataLoss(message, code="artifact_corrupt")
    return data


def unknown(digest: str) -> NotFound:
    """Return the error of a file that is not there."""
    return NotFound(f"artifact {digest} is not in the artifact store.", code="unknown_artifact")


def read_ahead(read: Callable[[str], bytes], digests: Iterable[str]) -> Iterator[bytes]:
    """Yield what `read` gives for each digest, in order, asking for a few at once; raises what `read` does."""
    with ThreadPoolExecutor(_READERS) as readers:
        waiting: deque[Future[bytes]] = deque()
        try:
            for digest in digests:
                waiting.append(readers.submit(read, digest))
                if len(waiting) > _READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
