"""Pauses for work that runs beside engine steps."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

_WORK_S: Final = 0.0001
_PAUSE_S: Final = 0.001
_IDLE_PAUSE_S: Final = 0.00005
"""Long enough that whoever waits for the interpreter gets it, as the engine does that is about to begin a step."""
_BUSY_S: Final = 2.0
"""An engine that began a step less than this ago may still run it, or begin the next one any moment."""


class StepClock:
    """When the engine of this process last began a step."""

    def __init__(self) -> None:
        self._began = -math.inf

    def begin(self) -> None:
        """Note that a step begins now."""
        self._began = time.perf_counter()

    def pause_s(self) -> float:
        """Return how long work beside the engine has to pause now, in seconds."""
        return _PAUSE_S if time.perf_counter() - self._began < _BUSY_S else _IDLE_PAUSE_S


STEPS: Final = StepClock()


def breathing(items: Iterable[T], steps: StepClock = STEPS) -> Iterator[T]:
    """Yield `items`, with a pause whenever the loop has worked for a tenth of a millisecond.

    An interpreter lock that is held for long is taken from its holder only every few milliseconds, which is as long
    as a decode step, and on a machine whose cores are all used, any work delays one of the step's own threads. A
    loop that gives way by itself, and works a small share of the time, costs each step next to nothing. Where no step
    runs it only lets others have the lock.
    """
    began = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - began > _WORK_S:
            time.sleep(steps.pause_s())
            began = time.perf_counter()
