"""Loopback ports and addresses."""

import errno
import os
import socket
from typing import Final

from horen_vllm.errors import FailedPrecondition, InvalidArgument

LOOPBACK: Final = "127.0.0.1"


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; InvalidArgument ``invalid_address``."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        message = f"{text!r} is not an address: expected HOST:PORT, such as 127.0.0.1:8950."
        raise InvalidArgument(message, code="invalid_address")
    return host.strip("[]"), int(port)


def claim_port(port: int, option: str, host: str = LOOPBACK) -> int:
    """Return `port`, or a free one for 0, after a look whether it can be listened on at `host`.

    Parameters
    ----------
    option
        Command-line option that chooses another port; named in the error.

    Raises
    ------
    FailedPrecondition
        ``port_taken`` or ``bind_failed``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a server that has just stopped are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                message = f"port {port} is taken: stop what listens there or choose another one with {option}."
                raise FailedPrecondition(message, code="port_taken") from exc
            message = f"cannot listen on port {port} ({os.strerror(exc.errno or 0)}): choose another with {option}."
            raise FailedPrecondition(message, code="bind_failed") from exc
        free: int = probe.getsockname()[1]
    return free
