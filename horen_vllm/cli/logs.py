"""How the long-running commands log: one line for each event on stderr, with the time in UTC."""

import sys

import structlog


def configure_logs() -> None:
    """Send this process's log to stderr."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # With rich installed the default prints every local variable: tenants' prompts, and whole models.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
