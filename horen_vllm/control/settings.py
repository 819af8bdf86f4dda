"""What the composition root tells the control plane."""

from dataclasses import dataclass
from typing import Final

DEFAULT_PORT: Final = 8950
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""Largest gRPC message either way; a first sync of a large codebook is the longest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """The base model that new codebooks are for, and where the server listens."""

    model: str
    """Name under which the base model is served; also decides the preset's published threshold."""
    fingerprint: str
    """Fingerprint of the base model."""
    site: str
    """Module name of the edit site."""
    host: str = "127.0.0.1"
    """Loopback address to listen on."""
    port: int = DEFAULT_PORT
    """Port to listen on; 0: any free one."""
    poll_s: float = 0.1
    """Seconds between two looks at the registry by a watch or a waiting sync."""
    call_threads: int = 8
    """Threads for the registry calls of unary RPCs."""
    poll_threads: int = 2
    """Threads for the registry calls of watches and waiting syncs."""
    grace_s: float = 2.0
    """Seconds that running RPCs get to finish when the server stops."""
