"""Artifacts in an object store, through fsspec.

A put reads the object back and compares its hash. An ETag would not do: it is an MD5 on some stores, on some only for
small objects or without encryption, and on others a random number. One more request for each artifact holds on all.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec
from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from horen_vllm.artifacts.folder import write_durably
from horen_vllm.artifacts.location import ObjectStoreUrl
from horen_vllm.artifacts.store import StoredArtifact, digest_in, digest_of, file_of, read_ahead, unknown, verified
from horen_vllm.errors import DataLoss, FailedPrecondition, HorenError, NotFound, Unavailable

T = TypeVar("T")

ATTEMPTS: Final = 4
"""Times that a request is made at most."""
_PUTS: Final = 6
"""Times that a file is written at most: where objects are not replaced at one blow, what is read back may be another
writer's half of the same content."""
_LAST_ATTEMPT_S: Final = 30.0
"""Seconds after which a request that failed is not made again."""
_LONGEST_PAUSE_S: Final = 2.0
_S3_CONFIG: Final = {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 0}}
"""Seconds; its own retries would multiply with ours. ``FSSPEC_S3_CONFIG_KWARGS`` overrides each."""
_S3: Final = frozenset({"s3", "s3a"})
_BUCKETS: Final = _S3 | {"gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"}
"""Stores without folders: what is missing there is the bucket, which is not for us to make."""
_MODIFIED: Final = ("LastModified", "last_modified", "mtime", "updated", "created")
"""What file systems call the time of the last write."""
_FINAL: Final = (FileNotFoundError, PermissionError, NotImplementedError, HorenError)
"""What trying again does not change."""


class ObjectArtifacts:
    """`ArtifactStore` on an fsspec file system.

    Parameters
    ----------
    url
        Bucket and prefix, which must exist. Credentials and endpoint come from the environment: as fsspec has them
        (``FSSPEC_S3_KEY``, ``FSSPEC_S3_SECRET``, ``FSSPEC_S3_ENDPOINT_URL``), or as the store's own clients do
        (``AWS_ACCESS_KEY_ID`` and the like).

    Raises
    ------
    FailedPrecondition
        ``artifact_driver_missing``, when the Python package for such stores is not installed.
    """

    def __init__(self, url: ObjectStoreUrl) -> None:
        self._url = url
        self._files = _open(url)
        self._root: str = self._files._strip_protocol(str(url))  # noqa: SLF001 - fsspec's name for it

    def where(self, digest: str) -> str:
        """Return the object's URL."""
        return f"{self._url}/{file_of(digest)}"

    def put(self, data: bytes) -> str:
        """Store `data` and return its sha256 in hex, once it was read back.

        Raises
        ------
        DataLoss
            ``artifact_corrupt``, when what is read back differs.
        FailedPrecondition
            ``artifacts_forbidden``, also when the bucket does not exist.
        Unavailable
            ``artifacts_unavailable``.
        """
        digest = digest_of(data)
        settled = Retrying(
            retry=retry_if_exception_type((NotFound, DataLoss)),
            stop=stop_after_attempt(_PUTS),
            wait=wait_random_exponential(multiplier=0.1, max=_LONGEST_PAUSE_S),
            reraise=True,
        )
        settled(lambda: self._put(digest, data))
        return digest

    def read(self, digest: str) -> bytes:
        """Return the bytes with this sha256; NotFound ``unknown_artifact``, DataLoss ``artifact_corrupt``."""
        try:
            data = self._asked(lambda: bytes(self._files.cat_file(self._path(digest))))
        except FileNotFoundError:
            raise unknown(digest) from None
        return verified(data, digest)

    def read_many(self, digests: Iterable[str]) -> Iterator[bytes]:
        """Yield the bytes with these hashes, in order, asking for several at once; raises as `read`."""
        return read_ahead(self.read, digests)

    def fetch(self, digest: str, target: Path) -> None:
        """Write the object as `target`, verified, durably and all at once; raises as `read`, or OSError."""
        write_durably(target, self.read(digest))

    def find(self, digest: str) -> StoredArtifact | None:
        """Return size and age of the object; None when there is none."""
        try:
            return _stored(self._asked(lambda: self._files.info(self._path(digest))), digest)
        except FileNotFoundError:
            return None

    def list(self) -> Iterator[StoredArtifact]:
        """Yield every artifact; other objects are left out."""
        found = self._asked(lambda: self._files.find(self._root, detail=True))
        for path, info in found.items():
            digest = digest_in(path.rpartition("/")[2])
            if digest is not None:
                yield _stored(info, digest)

    def delete(self, digest: str) -> None:
        """Remove the object; harmless when there is none."""
        try:
            self._asked(lambda: self._files.rm_file(self._path(digest)))
        except FileNotFoundError:
            return

    def _put(self, digest: str, data: bytes) -> None:
        if not self._has(digest):
            self._write(self._path(digest), data)
            self.read(digest)

    def _write(self, path: str, data: bytes) -> None:
        try:
            try:
                self._asked(lambda: self._files.pipe_file(path, data))
            except FileNotFoundError:
                if self._url.scheme in _BUCKETS:
                    raise
                self._asked(lambda: self._files.makedirs(path.rpartition("/")[0], exist_ok=True))
                self._asked(lambda: self._files.pipe_file(path, data))
        except FileNotFoundError:
            message = f"bucket or folder of {self._url} does not exist: make it first."
            raise FailedPrecondition(message, code="artifacts_forbidden") from None

    def _has(self, digest: str) -> bool:
        try:
            self.read(digest)
        except (NotFound, DataLoss):
            return False
        return True

    def _path(self, digest: str) -> str:
        return f"{self._root}/{file_of(digest)}"

    def _asked(self, ask: Callable[[], T]) -> T:
        """Return what `ask` returns, a few times if need be; FileNotFoundError is passed on, all else translated."""
        retrying = Retrying(
            retry=retry_if_exception(lambda exc: isinstance(exc, Exception) and not isinstance(exc, _FINAL)),
            stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(_LAST_ATTEMPT_S),
            wait=wait_random_exponential(multiplier=0.1, max=_LONGEST_PAUSE_S),
            reraise=True,
        )
        try:
            return retrying(ask)
        except FileNotFoundError:
            raise
        except Exception as exc:  # noqa: BLE001 - every driver has errors of its own
            # Without its cause, which may quote an endpoint, a key id or a signed request.
            raise self._translated(exc) from None

    def _translated(self, exc: Exception) -> HorenError:
        reason = _reason(exc)
        if isinstance(exc, PermissionError):
            message = f"{self._url} refuses the credentials in the environment ({reason})."
            return FailedPrecondition(message, code="artifacts_forbidden")
        if isinstance(exc, NotImplementedError):
            message = f"{self._url} cannot be written to: its kind of store only reads."
            return FailedPrecondition(message, code="artifacts_forbidden")
        return Unavailable(f"{self._url} does not answer ({reason}); try again.", code="artifacts_unavailable")


def _open(url: ObjectStoreUrl) -> Any:
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if url.scheme in _S3:
        chosen = fsspec.config.conf.get(url.scheme, {}).get("config_kwargs", {})
        options["config_kwargs"] = {**_S3_CONFIG, **chosen}
    try:
        return fsspec.filesystem(url.scheme, **options)
    except ImportError as exc:
        package = "horen-vllm[s3]" if url.scheme in _S3 else f"what fsspec needs for {url.scheme}://"
        message = f"artifacts at {url.scheme}:// need a Python package that is not installed: {package}."
        raise FailedPrecondition(message, code="artifact_driver_missing") from exc


def _stored(info: dict[str, Any], digest: str) -> StoredArtifact:
    return StoredArtifact(digest=digest, size=int(info["size"]), modified_at=_modified_at(info))


def _modified_at(info: dict[str, Any]) -> datetime:
    written = next(info[name] for name in _MODIFIED if info.get(name) is not None)
    if isinstance(written, datetime):
        return written if written.tzinfo else written.replace(tzinfo=UTC)
    return datetime.fromtimestamp(float(written), UTC)


def _reason(exc: Exception) -> str:
    """Return what may be told of a driver's error: its class, and the store's own word for it."""
    for error in (exc, exc.__cause__):
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Code" in response.get("Error", {}):
            return f"{type(exc).__name__}, {response['Error']['Code']}"
    return type(exc).__name__
