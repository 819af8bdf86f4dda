"""How loops for CPUs are compiled: by numba, kept beside the source, without the interpreter's lock."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from llvmlite.binding import ffi
from numba import njit

Array = np.ndarray[Any, Any]

# llvmlite answers to any name with a function of its library. vLLM asks every attribute of every module for its
# `__dict__` when a worker starts on a CPU, and would take that function for one.
with suppress(AttributeError):
    ffi.lib._fntab.setdefault("__dict__", {})  # noqa: SLF001


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, or take what another process compiled on such a machine.

    Sums may be cut into vectors, and products fused with them; not a number stays not a number. What was compiled is
    kept until the function's own file changes, so what it calls has to stand there too; who changes the options here
    deletes ``__pycache__``.
    """
    loop: Callable[..., Any]
    loop = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})(function)
    # Beside the source, else in the user's cache; where neither may be written every process compiles by itself.
    with suppress(RuntimeError):
        loop.enable_caching()  # type: ignore[attr-defined]
    return loop
