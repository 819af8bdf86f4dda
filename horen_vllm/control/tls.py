"""TLS of both ends: which files it is made of, and what gRPC makes of them. Knows files, not who may do what."""

import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from horen_vllm.control.settings import ServerTls
from horen_vllm.errors import FailedPrecondition

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """Files of a client, in PEM; they are read once."""

    ca: Path | None = None
    """Roots that the server's certificate must lead to; None: the public ones that come with gRPC."""
    cert: Path | None = None
    """Certificate to show to the server."""
    key: Path | None = None
    """Its private key, without a passphrase."""
    server_name: str | None = None
    """Name that the server's certificate must bear; None: the host that is dialled."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Return them as gRPC takes them; FailedPrecondition ``invalid_tls``."""
        if (self.cert is None) != (self.key is None):
            message = "a client certificate and its key go together: give both or neither."
            raise FailedPrecondition(message, code="invalid_tls")
        if self.cert is not None and self.key is not None:
            _check_pair(self.cert, self.key)
        if self.ca is not None:
            _check_roots(self.ca)
        return grpc.ssl_channel_credentials(*(_read(file) for file in (self.ca, self.key, self.cert)))

    def options(self) -> tuple[tuple[str, str], ...]:
        """Return what the channel needs to know beside the credentials."""
        return () if self.server_name is None else (("grpc.ssl_target_name_override", self.server_name),)


class ServerCertificates:
    """A server's certificate, read again when one of its files has changed; connections that stand are left alone.

    Files that do not belong together (yet), or cannot be read, change nothing: the last ones that did go on being
    shown, and the log says why. So both may be replaced in either order.

    Parameters
    ----------
    files
        Where they are.

    Raises
    ------
    FailedPrecondition
        ``invalid_tls``, for files that cannot be used now.
    """

    def __init__(self, files: ServerTls) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._first = self._load()

    def credentials(self) -> Any:
        """Return them as gRPC takes them."""
        needs_client = self._files.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(
            self._first, self._renewed, require_client_authentication=needs_client
        )

    def _renewed(self) -> Any | None:
        """Return what new connections shall be shown, None when it is what the last one was; gRPC asks for each."""
        with self._lock:
            stamp = self._stamp()
            if stamp == self._seen:
                return None
            try:
                loaded = self._load()
            except FailedPrecondition as error:
                log.warning("certificate not renewed", code=error.code, reason=error.message)
                loaded = None
            # What was written meanwhile is read at the next connection.
            if stamp == self._stamp():
                self._seen = stamp
                return loaded
        return None

    def _load(self) -> Any:
        files = self._files
        _check_pair(files.cert, files.key)
        if files.client_ca is not None:
            _check_roots(files.client_ca)
        pair = (_read(files.key), _read(files.cert))
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=_read(files.client_ca))

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(file) for file in (self._files.cert, self._files.key, self._files.client_ca) if file)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def _check_pair(cert: Path, key: Path) -> None:
    for file in (cert, key):
        _read(file)
    try:
        # An empty passphrase instead of a question on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as exc:
        mismatch = getattr(exc, "reason", None) == "KEY_VALUES_MISMATCH"
        reason = "the key is not the certificate's" if mismatch else "they are not a PEM certificate and its plain key"
        raise _unusable((cert, key), reason) from exc


def _check_roots(file: Path) -> None:
    _read(file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except (OSError, ValueError) as exc:
        raise _unusable((file,), "it holds no PEM certificate") from exc


def _read(file: Path | None) -> bytes | None:
    try:
        return None if file is None else file.read_bytes()
    except OSError as exc:
        raise _unusable((file,), exc.strerror or "it cannot be read") from exc


def _unusable(files: Iterable[Path | None], reason: str) -> FailedPrecondition:
    names = " and ".join(map(str, files))
    return FailedPrecondition(f"TLS cannot use {names}: {reason}.", code="invalid_tls")
