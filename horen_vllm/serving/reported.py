"""Errors that another process reports as JSON: workers, and the process that makes packs."""

from typing import Any, Final

from horen_vllm.errors import HorenError, Internal

_CLASSES: Final = {kind.__name__: kind for kind in HorenError.__subclasses__()}


def reported_error(fields: dict[str, Any]) -> HorenError:
    """Return the error of ``{"class", "code", "message"}``; of an unknown class, `Internal`."""
    return _CLASSES.get(fields["class"], Internal)(fields["message"], code=fields["code"])


def error_fields(error: HorenError) -> dict[str, str]:
    """Return what `reported_error` reads."""
    return {"class": type(error).__name__, "code": error.code, "message": error.message}
