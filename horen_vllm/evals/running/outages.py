"""A control plane that is away, or that takes no more for now: what can be asked again is asked again."""

import time
from collections.abc import Callable
from typing import TypeVar

from horen_vllm.errors import ResourceExhausted, Unavailable

T = TypeVar("T")


class Outages:
    """Repeats calls that change nothing when made twice.

    Parameters
    ----------
    longest_s
        Longest outage that is waited out, in seconds.
    pause_s
        Time between two attempts, in seconds.
    """

    def __init__(self, longest_s: float, pause_s: float) -> None:
        self._longest_s = longest_s
        self._pause_s = pause_s

    def outlast(self, call: Callable[[], T], made: Callable[[], int] = lambda: 0) -> T:
        """Return what `call` returns, once it is neither Unavailable nor stopped by a quota that time lifts.

        Parameters
        ----------
        made
            What `call` has come to so far: while that grows, there is no outage.

        Raises
        ------
        HorenError
            What `call` raises; of those two, after `longest_s` seconds without a change of `made`.
        """
        since, seen = time.monotonic(), made()
        while True:
            try:
                return call()
            except (Unavailable, ResourceExhausted) as error:
                if isinstance(error, ResourceExhausted) and error.retry_after_s is None:
                    raise
                if made() != seen:
                    since, seen = time.monotonic(), made()
                if time.monotonic() - since >= self._longest_s:
                    raise
            time.sleep(self._pause_s)
