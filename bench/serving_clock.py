"""How long a serving benchmark takes, guessed from what it has measured so far."""

import time
from collections.abc import Callable, Iterable
from typing import Final

from bench.serving_cells import Fleet, Group
from bench.serving_workloads import load_workload

_FIRST_START_S: Final = 120.0
"""Guess of a server's start, before one was seen."""


class Clock:
    """Times of a run.

    Parameters
    ----------
    rounds
        Measured rounds of a cell; there is one more for warming up.
    minutes
        How long the whole run may take; None: as long as it takes.
    now
        Seconds.
    """

    def __init__(self, rounds: int, minutes: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._rounds = rounds + 1
        self._now = now
        self._end = None if minutes is None else now() + 60.0 * minutes
        self._start_s = _FIRST_START_S
        self._token_s: float | None = None

    def started(self, seconds: float) -> None:
        """Note how long a server took to answer."""
        self._start_s = seconds

    def asked(self, workload: str, sides: int, rounds: int, seconds: float) -> None:
        """Note how long some rounds of all sides took."""
        self._token_s = seconds / (load_workload(workload).answer * sides * rounds)

    def seconds(self, group: Group) -> float | None:
        """Return how long a group takes; None before anything was measured."""
        if self._token_s is None:
            return None
        return self._token_s * load_workload(group.workload).answer * (1 + len(group.cells)) * self._rounds

    def remaining(self, fleets: Iterable[Fleet], groups: Iterable[Group] = ()) -> float | None:
        """Return how long servers that are to be started, and groups of one that runs, take together."""
        found = 0.0
        for fleet in fleets:
            found += self._start_s
            groups = [*groups, *fleet.groups]
        for group in groups:
            seconds = self.seconds(group)
            if seconds is None:
                return None
            found += seconds
        return found

    def fits(self, group: Group, *, start: bool = False) -> bool:
        """Return whether a group, with a server's start, fits into what is left of the time."""
        if self._end is None:
            return True
        needed = (self._start_s if start else 0.0) + (self.seconds(group) or 0.0)
        return self._now() + needed <= self._end
