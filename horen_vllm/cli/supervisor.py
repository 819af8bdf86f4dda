"""Several parts as one: started together, watched, and stopped together. Knows processes, not what they do."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from horen_vllm.cli.part import Part, PartSpec
from horen_vllm.errors import Unavailable

_LOOK_S: Final = 0.1
"""Seconds between two looks at the parts."""


class Supervisor:
    """Keeps a set of parts.

    Parameters
    ----------
    specs
        The parts, with different names.
    grace_s
        Seconds that parts get to end by themselves before they are killed.
    """

    def __init__(self, specs: Sequence[PartSpec], *, grace_s: float = 10.0) -> None:
        self._parts = {spec.name: Part(spec) for spec in specs}
        self._grace_s = grace_s
        self._down: set[str] = set()

    def start(self) -> None:
        """Start all parts."""
        for part in self._parts.values():
            part.start()

    def pids(self) -> dict[str, int]:
        """Return the process id of each part's guardian."""
        return {name: part.pid for name, part in self._parts.items()}

    def wait_ready(
        self, stop: threading.Event, *, timeout_s: float, on_ready: Callable[[str], None] = lambda _name: None
    ) -> bool:
        """Return True once every part is ready, False as soon as `stop` is set.

        Raises
        ------
        Unavailable
            ``part_died`` or ``not_ready``; or what the part that ended said itself.
        """
        deadline = time.monotonic() + timeout_s
        waiting = [name for name in self._parts if name not in self._down]
        while not stop.is_set():
            self.check()
            for name in [name for name in waiting if self._parts[name].spec.ready()]:
                waiting.remove(name)
                on_ready(name)
            if not waiting:
                return True
            if time.monotonic() > deadline:
                late = self._parts[waiting[0]].spec
                message = f"the {late.title} is not ready after {timeout_s:g} s; its log is {late.log}."
                raise Unavailable(message, code="not_ready")
            stop.wait(_LOOK_S)
        return False

    def watch(self, stop: threading.Event) -> None:
        """Return when `stop` is set; raises as `check` when a part ends before."""
        while not stop.wait(_LOOK_S):
            self.check()

    def check(self) -> None:
        """Look at every part once.

        Raises
        ------
        HorenError
            ``part_died``, or what a part that ended by itself said with its last words.
        """
        for name, part in self._parts.items():
            if name not in self._down and part.status() is not None:
                raise part.death()

    def kill(self, name: str) -> None:
        """Kill one part with its descendants; it then counts as stopped on purpose."""
        self._down.add(name)
        self._parts[name].kill()

    def restart(self, name: str) -> None:
        """Start a part again, ending it first if it runs."""
        self._down.add(name)
        self._end([self._parts[name]])
        self._parts[name].start()
        self._down.discard(name)

    def stop(self) -> None:
        """End all parts: ask, then kill what is left after the grace period; harmless when repeated."""
        self._end(list(self._parts.values()))

    def _end(self, parts: Sequence[Part]) -> None:
        deadline = time.monotonic() + self._grace_s
        try:
            for part in parts:
                part.terminate()
            for part in parts:
                part.wait(deadline - time.monotonic())
        finally:
            for part in parts:
                part.kill()
