"""Pauses for Python loops that run beside engine steps."""

import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

_ITEMS: Final = 16
_PAUSE_S: Final = 0.0003


def breathing(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`, sleeping a moment after every few.

    An interpreter lock that is held for long is taken from its holder only every few milliseconds, which is as
    long as a decode step; a loop that gives it up by itself costs the engine's thread next to nothing.
    """
    for count, item in enumerate(items, start=1):
        yield item
        if count % _ITEMS == 0:
            time.sleep(_PAUSE_S)
