"""What is written down of every call: one line in the log, and the counts for Prometheus. Never what was in it."""

import contextlib
import re
import time
import traceback
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import grpc
import structlog

from horen_vllm.control.metrics import ControlMetrics

REQUEST_ID: Final = "x-request-id"
"""Metadata key of a call's id: the client's, or one of ours; the answer's initial metadata repeats it."""
_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_SERVING: Final = "ReplicaService/"
"""Calls that replicas make all the time."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Call:
    """One call while it runs."""

    method: str
    """``SERVICE/METHOD``."""
    request_id: str
    peer: str
    """As gRPC writes it, such as ``ipv4:127.0.0.1:50312``."""
    streams: bool
    """Whether requests or answers are a stream: then its duration says nothing about speed."""
    actor: str | None = None
    """Who is asking; None until that is known."""
    tenant: str | None = None
    """Whom it is about."""
    code: str | None = None
    """Slug of the error that ended it."""
    started: float = field(default_factory=time.perf_counter)


class Journal:
    """Begins and ends the record of each call.

    Parameters
    ----------
    metrics
        Where calls are counted.
    """

    def __init__(self, metrics: ControlMetrics) -> None:
        self._metrics = metrics

    def begin(self, method: str, metadata: Iterable[tuple[str, str | bytes]], peer: str, *, streams: bool) -> Call:
        """Return the record of a call that has just arrived."""
        self._metrics.running.inc()
        return Call(method=method, request_id=_request_id(metadata), peer=peer, streams=streams)

    def end(self, call: Call, status: grpc.StatusCode) -> None:
        """Write down how a call ended."""
        seconds = time.perf_counter() - call.started
        self._metrics.running.dec()
        self._metrics.calls.labels(call.method, status.name).inc()
        if not call.streams:
            self._metrics.seconds.labels(call.method).observe(seconds)
        # Replicas ask and report twice a second: their successes would bury everything else.
        quiet = status is grpc.StatusCode.OK and call.method.startswith(_SERVING)
        # What was done is done, whether or not it can be written down.
        with contextlib.suppress(OSError, ValueError):
            (log.debug if quiet else log.info)(
                "call",
                method=call.method,
                status=status.name,
                code=call.code,
                tenant=call.tenant,
                actor=call.actor,
                request_id=call.request_id,
                duration_ms=round(seconds * 1000, 3),
                peer=call.peer,
            )


def log_defect(call: Call, incident: str, exc: BaseException) -> None:
    """Write down where something went wrong that should not have: without its message, which may quote a prompt."""
    chain: list[str] = []
    cause: BaseException | None = exc
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        chain.append(
            f"{type(cause).__name__} at " + " < ".join(f"{it.filename}:{it.lineno}" for it in reversed(frames))
        )
        cause = cause.__cause__ or cause.__context__
    with contextlib.suppress(OSError, ValueError):
        log.error("unexpected_error", method=call.method, incident=incident, request_id=call.request_id, where=chain)


def _request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    given = next((value for name, value in metadata if name == REQUEST_ID), None)
    return given if isinstance(given, str) and _ID.fullmatch(given) else uuid.uuid4().hex
