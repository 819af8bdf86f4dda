"""Proof that the half which asks for keys is in place, for the half that answers.

Why: vLLM logs an endpoint plugin that does not load, or leaves it out by its own rules, and serves on. With
``HOREN_AUTH`` set, a server must then answer nobody rather than everybody.
"""

import os
from typing import Final

from horen_vllm.errors import FailedPrecondition

_VARIABLE: Final = "HOREN_AUTH"
_guarded: set[str] = set()


def guarded() -> None:
    """Note that authentication, as the settings ask for it, stands before this process's engine client."""
    _guarded.add(_VARIABLE)


def check_guard() -> None:
    """Refuse to answer where keys are asked for and nothing checks them.

    Raises
    ------
    FailedPrecondition
        ``authentication_off``.
    """
    asked = os.environ.get(_VARIABLE, "none").strip().lower()
    if asked not in {"", "none"} and not _guarded:
        message = f"{_VARIABLE}={asked} asks for keys, but horen_serving is not loaded: nobody is served."
        raise FailedPrecondition(message, code="authentication_off")
