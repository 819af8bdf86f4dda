"""Pauses for work that runs beside engine steps."""

import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

_WORK_S: Final = 0.0001
_PAUSE_S: Final = 0.001


def breathing(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`, with a pause whenever the loop has worked for a tenth of a millisecond.

    An interpreter lock that is held for long is taken from its holder only every few milliseconds, which is as long
    as a decode step, and on a machine whose cores are all used, any work delays one of the step's own threads. A
    loop that gives way by itself, and works a small share of the time, costs each step next to nothing.
    """
    began = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - began > _WORK_S:
            time.sleep(_PAUSE_S)
            began = time.perf_counter()
