"""A client's API key: where it comes from, and how it travels with every call."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import grpc

from horen_vllm.errors import FailedPrecondition, InvalidArgument
from horen_vllm.keys import looks_like_key
from horen_vllm.loopback import is_loopback

AUTHORIZATION: Final = "authorization"
"""Metadata key of the credential, ``Bearer SECRET``."""


class KeySource(Protocol):
    """Returns the key's secret; asked at every call."""

    def __call__(self) -> str:
        """Return the secret."""
        ...


def fixed_key(secret: str) -> KeySource:
    """Return a source of one secret; InvalidArgument ``malformed_api_key``."""
    checked = _checked(secret, "the API key")
    return lambda: checked


class KeyFile:
    """A secret in a file, read again when the file has changed, so that a new key needs no restart.

    Parameters
    ----------
    path
        A file with the secret and nothing else but white space.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._secret = ""

    def __call__(self) -> str:
        """Return the secret.

        Raises
        ------
        FailedPrecondition
            ``api_key_unreadable``.
        InvalidArgument
            ``malformed_api_key``.
        """
        try:
            with self._lock:
                state = self._path.stat()
                stamp = (state.st_ino, state.st_mtime_ns, state.st_size)
                if stamp != self._seen:
                    text = self._path.read_text(encoding="ascii", errors="replace")
                    self._secret, self._seen = _checked(text.strip(), f"what {self._path} holds"), stamp
                return self._secret
        except OSError as exc:
            message = f"the API key cannot be read from {self._path}: {exc.strerror}."
            raise FailedPrecondition(message, code="api_key_unreadable") from exc


def key_source(secret: str | None, file: Path | None) -> KeySource | None:
    """Return where a client's key comes from, None for a client without one; raises as `fixed_key`.

    Raises
    ------
    InvalidArgument
        ``api_key_ambiguous``, for a secret and a file.
    """
    if secret and file:
        raise InvalidArgument("an API key and a file with one are given: give one of them.", code="api_key_ambiguous")
    if file:
        return KeyFile(file)
    return fixed_key(secret) if secret else None


def host_of(target: str) -> str:
    """Return the host of ``HOST:PORT``."""
    return target.rpartition(":")[0].strip("[]")


def check_channel(target: str, *, encrypted: bool) -> None:
    """Refuse to send a key in clear text to another machine.

    Raises
    ------
    FailedPrecondition
        ``insecure_channel``.
    """
    if not encrypted and not is_loopback(host_of(target)):
        message = f"an API key does not travel to {target} in clear text: say with which CA to speak TLS."
        raise FailedPrecondition(message, code="insecure_channel")


def _checked(secret: str, what: str) -> str:
    # Without the text itself: what is not a key here may be one elsewhere.
    if not looks_like_key(secret.encode(errors="replace")):
        raise InvalidArgument(f"{what} is no API key: expected hk_..., on one line.", code="malformed_api_key")
    return secret


@dataclass(frozen=True, slots=True)
class _Details(grpc.ClientCallDetails):  # type: ignore[misc]
    """A call's details as gRPC wants them."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    credentials: Any = None
    wait_for_ready: bool | None = None
    compression: Any = None


class CredentialInterceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Sends the key with every call of a channel.

    Parameters
    ----------
    key
        Where the secret comes from.
    """

    def __init__(self, key: KeySource) -> None:
        self._key = key

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """Add the key."""
        return continuation(self._with_key(details), request)

    def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """Add the key."""
        return continuation(self._with_key(details), request)

    def intercept_stream_unary(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        """Add the key."""
        return continuation(self._with_key(details), requests)

    def intercept_stream_stream(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        """Add the key."""
        return continuation(self._with_key(details), requests)

    def _with_key(self, details: Any) -> _Details:
        metadata = (*(details.metadata or ()), (AUTHORIZATION, f"Bearer {self._key()}"))
        return _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            getattr(details, "wait_for_ready", None),
            getattr(details, "compression", None),
        )
