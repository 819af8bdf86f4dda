"""How the long-running commands log: one line for each event on stderr, with the time in UTC."""

import contextlib
import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, TextIO, TypeVar, cast

import structlog

from horen_vllm.errors import InvalidArgument

E = TypeVar("E", bound=StrEnum)


class LogFormat(StrEnum):
    """What a line of the log looks like."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """What is logged."""

    DEBUG = "debug"
    """Also what happens all the time."""
    INFO = "info"
    WARNING = "warning"


class _Sink:
    """A stream that takes what it can: no work may fail because its log is on a full disk, or nobody reads it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure_logs() -> None:
    """Send this process's log to stderr, as ``HOREN_LOG_FORMAT`` and ``HOREN_LOG_LEVEL`` say.

    Raises
    ------
    InvalidArgument
        ``invalid_log_settings``.
    """
    level = _chosen("HOREN_LOG_LEVEL", LogLevel, LogLevel.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_renderers(_chosen("HOREN_LOG_FORMAT", LogFormat, LogFormat.TEXT)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.value),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Sink(sys.stderr))),
    )


def _renderers(form: LogFormat) -> Iterator[Any]:
    if form is LogFormat.JSON:
        yield structlog.processors.format_exc_info
        yield structlog.processors.JSONRenderer()
        return
    # With rich installed the default prints every local variable: tenants' prompts, and whole models.
    yield structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _chosen(name: str, choices: type[E], default: E) -> E:
    text = os.environ.get(name) or default
    if text not in set(choices):
        message = f"{name} is {text!r}: use {' or '.join(choices)}."
        raise InvalidArgument(message, code="invalid_log_settings")
    return choices(text)
