"""Errors as a shell sees them: one exit code for each class, one line on stderr.

Codes 0 (done), 1 (a check failed) and 2 (wrong usage) are not errors of ours.
"""

import os
import re
import sys
import traceback
from typing import Any, Final

from typer import Exit
from typer.core import TyperGroup

from horen_vllm.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    HorenError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

EXIT_CODE: Final[dict[type[HorenError], int]] = {
    InvalidArgument: 3,
    NotFound: 4,
    AlreadyExists: 5,
    FailedPrecondition: 6,
    Unavailable: 7,
    DataLoss: 8,
    Unauthenticated: 9,
    PermissionDenied: 10,
    Aborted: 11,
    ResourceExhausted: 12,
    Internal: 70,
}
"""One row for each error class of `horen_vllm.errors`."""
CHECK_FAILED: Final = 1
"""Exit code of a command that worked and found something wrong."""

_LINE: Final = re.compile(r"error \[(?P<code>[a-z_]+)\]: (?P<message>.+)")


def exit_code(error: HorenError) -> int:
    """Return the exit code of an error: its class's, or that of the nearest base class in the table."""
    bases = (EXIT_CODE[base] for base in type(error).__mro__ if base in EXIT_CODE)
    return next(bases, EXIT_CODE[Internal])


def report(error: HorenError) -> int:
    """Print ``error [code]: sentence`` and the error's notes on stderr, and return its exit code."""
    sentence = " ".join(error.message.split())
    notes: list[str] = getattr(error, "__notes__", [])
    print(f"error [{error.code}]: {sentence}", *notes, sep="\n", file=sys.stderr)  # noqa: T201
    return exit_code(error)


def report_unexpected(error: Exception) -> int:
    """Report a defect of ours; ``HOREN_TRACEBACK=1`` shows where it happened."""
    if os.environ.get("HOREN_TRACEBACK"):
        traceback.print_exception(error)
    detail = f"unexpected {type(error).__name__}: {error} (HOREN_TRACEBACK=1 shows where)."
    return report(Internal(detail))


def error_of_process(status: int, last_line: str) -> HorenError | None:
    """Return the error that another ``horen`` process reported by its exit status and last line, or None."""
    classes = {code: cls for cls, code in EXIT_CODE.items()}
    found = _LINE.fullmatch(last_line.strip())
    if found is None or status not in classes:
        return None
    return classes[status](found["message"], code=found["code"])


class ReportingGroup(TyperGroup):
    """A group of commands that turns every `HorenError` into its line and exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except HorenError as error:
            raise Exit(report(error)) from error
