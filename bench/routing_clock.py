"""How long a call takes: by the clock on a CPU, by the device's own events on a GPU, in paired rounds of several sides.

A GPU's time is that of its own work. What launches it (tables by numpy, a copy to the device, Python) is the host's
time and reported apart.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Final, Protocol

import torch

Side = Callable[[torch.Tensor], Any]
WARM: Final = 2
"""Rounds whose times are thrown away."""
_MIB: Final = 1 << 20
_MOST_WRITES: Final = 256


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one call.

    Attributes
    ----------
    seconds
        Of the call on a CPU; of the device's work on a GPU.
    host
        Until the host had launched everything; None on a CPU.
    """

    seconds: float
    host: float | None = None


class Clock(Protocol):
    """What takes the time of a call."""

    def taken(self, ask: Callable[[], object]) -> Taken:
        """Return how long a call takes."""
        ...


class CpuClock:
    """Takes the time of one call."""

    def taken(self, ask: Callable[[], object]) -> Taken:
        """Call once, and return its seconds."""
        began = time.perf_counter()
        ask()
        return Taken(time.perf_counter() - began)


class CudaClock:
    """Takes the median time of a call's work on the current GPU.

    Before each call the device writes so much else that none of the keys is in its cache, and that it is still busy
    when the host has launched the call: no pause of the host's lies between the events.

    Parameters
    ----------
    repeats
        Calls of which the median is taken.
    """

    def __init__(self, repeats: int = 20) -> None:
        cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._other = torch.empty(max(4 * cache, 512 * _MIB) // 4, dtype=torch.float32, device="cuda")
        self._repeats = repeats
        self._write = 1.0
        for _ in range(3):
            self._write = min(self._write, self._once(self._other.zero_, 1).seconds)

    def taken(self, ask: Callable[[], object]) -> Taken:
        """Call many times, and return the medians."""
        # The first call may compile, and shows how long the host is busy with one.
        ask()
        torch.cuda.synchronize()
        writes = writes_before(self._once(ask, 1).host or 0.0, self._write)
        found = [self._once(ask, writes) for _ in range(self._repeats)]
        return Taken(median(one.seconds for one in found), median(one.host or 0.0 for one in found))

    def _once(self, ask: Callable[[], object], writes: int) -> Taken:
        event: Any = torch.cuda.Event
        start, stop = event(enable_timing=True), event(enable_timing=True)
        for _ in range(writes):
            self._other.zero_()
        began = time.perf_counter()
        start.record()
        ask()
        stop.record()
        host = time.perf_counter() - began
        torch.cuda.synchronize()
        return Taken(float(start.elapsed_time(stop)) / 1e3, host)


def writes_before(host: float, write: float) -> int:
    """Return how many writes of `write` seconds keep a device busy for half as long again as the host's seconds."""
    return min(_MOST_WRITES, max(2, math.ceil(1.5 * host / write)))


def clock_for(device: str) -> Clock:
    """Return the clock of ``cpu`` or ``cuda``."""
    return CudaClock() if device == "cuda" else CpuClock()


def turns(sorts: Sequence[str], sides: Sequence[str], rounds: int) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield a number, the order of the queries' sorts and that of the sides for each round, warm-up rounds first.

    Sides turn round every time and sorts every second time, so that each order of one meets each of the other.
    """
    for number in range(rounds + WARM):
        yield (
            number,
            list(sorts)[:: -1 if number // 2 % 2 else 1],
            list(sides)[:: -1 if number % 2 else 1],
        )


def paired(
    sides: Mapping[str, Side],
    queries: Mapping[str, Callable[[int], torch.Tensor]],
    rounds: int,
    clock: Clock,
) -> dict[str, dict[str, list[Taken]]]:
    """Return what every side took for every sort of queries, round by round; a round asks all of them the same.

    Parameters
    ----------
    queries
        By sort: makes those of a round from its number.
    """
    found: dict[str, dict[str, list[Taken]]] = {sort: {name: [] for name in sides} for sort in queries}
    for number, sorts, names in turns(list(queries), list(sides), rounds):
        for sort in sorts:
            asked = queries[sort](number)
            for name in names:
                taken = clock.taken(partial(sides[name], asked))
                if number >= WARM:
                    found[sort][name].append(taken)
    return found
