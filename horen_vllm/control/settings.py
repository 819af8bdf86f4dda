"""What the composition root tells the control plane."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

DEFAULT_PORT: Final = 8950
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""Largest gRPC message either way; the longest is what a replica is told of a large codebook, from nothing."""


class ControlAuth(StrEnum):
    """How clients of the control plane prove who they are."""

    NONE = "none"
    """Not at all: loopback only."""
    KEYS = "keys"
    """By API keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """Files of a server, in PEM."""

    cert: Path
    """Its certificate, then those that lead from it towards a root."""
    key: Path
    """The certificate's private key, without a passphrase."""
    client_ca: Path | None = None
    """Roots of the certificates that every client must show; None: clients need none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """The base model that new codebooks are for, and where the server listens."""

    model: str
    """Name under which the base model is served; also decides the preset's published threshold."""
    fingerprint: str
    """Fingerprint of the base model."""
    site: str
    """Module name of the edit site."""
    artifacts: str | None = None
    """Folder or fsspec URL of the artifact store; None: codebooks are not exported or imported here."""
    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback only with `auth` keys and `tls`."""
    port: int = DEFAULT_PORT
    """Port to listen on; 0: any free one."""
    auth: ControlAuth = ControlAuth.NONE
    """How clients prove who they are."""
    tls: ServerTls | None = None
    """Certificate and key; None: clear text."""
    key_cache_s: float = 10.0
    """How long a key is believed after the registry was asked: the longest life of a revoked key, in seconds."""
    health_s: float = 2.0
    """Seconds between two looks whether the database answers, and the longest that it may take to."""
    expiry_s: float = 1.0
    """Seconds between two looks for edits whose time has passed."""
    poll_s: float = 0.1
    """Seconds between two looks at the registry by a watch or a waiting sync."""
    call_threads: int = 8
    """Threads for the registry calls of unary RPCs."""
    poll_threads: int = 2
    """Threads for the registry calls of watches and waiting syncs."""
    grace_s: float = 2.0
    """Seconds that running RPCs get to finish when the server stops."""
