"""Where artifacts are kept, as an operator writes it: a folder, or the URL of an object store."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from fsspec.registry import known_implementations

from horen_vllm.errors import InvalidArgument

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""One letter is a drive, or a folder with a short name."""


@dataclass(frozen=True, slots=True)
class ObjectStoreUrl:
    """The URL of an object store; it holds no secret, so it may be shown."""

    scheme: str
    path: str
    """Bucket and prefix, without a final slash."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"


def is_url(location: str) -> bool:
    """Return whether `location` is meant as a URL; everything else is a folder."""
    return _SCHEME.match(location) is not None


def parse_url(location: str) -> ObjectStoreUrl:
    """Return the parts of a URL such as ``s3://bucket/prefix``.

    Raises
    ------
    InvalidArgument
        ``invalid_artifacts_url``; the message never quotes more than the scheme, for the rest may hold a secret.
    """
    parts = _split(location)
    scheme = parts.scheme.lower()
    if not location[len(scheme) :].startswith("://") or scheme not in known_implementations:
        message = f"{scheme}: is no kind of artifact store: expected for example s3://bucket/prefix."
        raise InvalidArgument(message, code="invalid_artifacts_url")
    if "@" in parts.netloc or parts.query or parts.fragment or "::" in location:
        message = (
            f"the {scheme}:// URL of the artifacts has more than a bucket and a prefix: credentials and options belong "
            "into the environment."
        )
        raise InvalidArgument(message, code="invalid_artifacts_url")
    path = f"{parts.netloc}{parts.path}".rstrip("/")
    if not path:
        message = f"the {scheme}:// URL of the artifacts names no bucket or folder."
        raise InvalidArgument(message, code="invalid_artifacts_url")
    return ObjectStoreUrl(scheme, path)


def _split(location: str) -> SplitResult:
    try:
        return urlsplit(location)
    except ValueError:
        # The cause quotes the URL.
        message = "the URL of the artifacts is malformed: expected for example s3://bucket/prefix."
        raise InvalidArgument(message, code="invalid_artifacts_url") from None
