"""Every error that a user of horen-vllm can meet, each with a stable code.

::

    HorenError
    ├── InvalidArgument      the request itself is wrong
    ├── NotFound             it names something that is not there
    ├── Unauthenticated      nobody knows who is asking
    ├── PermissionDenied     who is asking may not
    ├── AlreadyExists        it would make something twice
    ├── FailedPrecondition   right request, wrong state or model
    ├── Aborted              somebody else was faster; look again, then decide
    ├── ResourceExhausted    a quota is used up
    ├── Unavailable          try again later
    ├── DataLoss             stored bytes are not what was written
    └── Internal             our fault

The class decides the transport status (one table in each of ``control/status.py``, ``serving/problem.py`` and
``cli/exits.py``); the ``code`` slug names the exact case and never changes once released.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class HorenError(Exception):
    """Base of every error that horen-vllm raises on purpose.

    Parameters
    ----------
    message
        One sentence for the person who must act on it.
    code
        Stable slug of the exact case; the class's own when not given.
    """

    default_code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing that is wrong with one field of a request."""

    field: str
    """Path of the field, such as ``spec.paraphrases[1]``."""
    code: str
    """Stable slug."""
    message: str
    """One sentence."""


class InvalidArgument(HorenError):
    """The request is malformed or breaks a limit, whatever the state of the system.

    Parameters
    ----------
    message, code
        As for every error; those of the first violation, where there are several.
    violations
        Everything that is wrong, where it is known field by field.
    """

    default_code = "invalid_argument"

    def __init__(self, message: str, *, code: str | None = None, violations: Sequence[FieldViolation] = ()) -> None:
        super().__init__(message, code=code)
        self.violations = tuple(violations)


class NotFound(HorenError):
    """The request names a codebook, edit, revision or model that does not exist for this tenant."""

    default_code = "not_found"


class Unauthenticated(HorenError):
    """The request carries no valid credential; why it is not valid is not told."""

    default_code = "unauthenticated"


class PermissionDenied(HorenError):
    """The request's credential is valid, but does not open this."""

    default_code = "permission_denied"


class AlreadyExists(HorenError):
    """The request would create something that exists with other content."""

    default_code = "already_exists"


class FailedPrecondition(HorenError):
    """The request is valid, but the model, the codebook or the environment does not allow it."""

    default_code = "failed_precondition"


class Aborted(HorenError):
    """The request was decided on a state that has changed since; read it again before the next attempt."""

    default_code = "aborted"


class ResourceExhausted(HorenError):
    """A quota of the tenant is used up.

    Parameters
    ----------
    message, code
        As for every error.
    retry_after_s
        Seconds after which the same request may succeed; None: only after something is removed or allowed.
    subject
        Resource name of whom the quota is of.
    """

    default_code = "resource_exhausted"

    def __init__(
        self, message: str, *, code: str | None = None, retry_after_s: float | None = None, subject: str = ""
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s
        self.subject = subject


class Unavailable(HorenError):
    """A part that is needed does not answer; the same request may succeed later."""

    default_code = "unavailable"


class DataLoss(HorenError):
    """Stored bytes differ from what was written; nothing was served from them."""

    default_code = "data_loss"


class Internal(HorenError):
    """A defect of horen-vllm itself; the log carries the details under the same id."""

    default_code = "internal"
