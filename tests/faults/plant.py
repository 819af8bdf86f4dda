"""An installation of real processes that are killed and restarted; no model, no torch to load for each."""

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from signal import SIGKILL
from typing import Any, Final

from tests.faults.parts import Installation, Sabotage, run_control, run_replica, run_worker

_ROLES: Final[dict[str, Any]] = {"control": run_control, "worker": run_worker, "replica": run_replica}
_START_S: Final = 60.0

# The server imports once what every process needs, and forks it from there: a start costs milliseconds.
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.faults.parts"])


@dataclass(frozen=True, slots=True)
class _Running:
    """One life of a process."""

    process: ForkServerProcess
    held: connection.Connection
    """The process ends when this end of the pipe is closed."""

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.held.close()


class Plant:
    """The processes of one installation: each that is killed by a failpoint is started again, without any.

    Parameters
    ----------
    place
        Database and folder; the port is found at the first start.
    armed
        Failpoints of the first life of each process, by its name.
    sabotage
        What is broken in every life of a process, by its name.
    """

    def __init__(self, place: Installation, armed: dict[str, str], sabotage: dict[str, Sabotage] | None = None) -> None:
        self.place = place
        self.killed: list[str] = []
        """Names of the processes that died of SIGKILL by themselves, in order."""
        self.crashed: list[str] = []
        """Names of those that ended in another way; they are not started again."""
        self._armed = armed
        self._sabotage = sabotage or {}
        self._running: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._wake, self._woken = connection.Pipe()
        self._stopping = False
        self._keeper = threading.Thread(target=self._keep, name="plant", daemon=True)

    def start(self) -> None:
        """Start the control plane, then the others."""
        for name in _ROLES:
            self._start(name, self._armed.get(name, ""))
        self._keeper.start()

    def stop(self) -> None:
        """Kill what runs."""
        self._stopping = True
        self._wake.send(None)
        if self._keeper.ident is not None:
            self._keeper.join()
        for running in self._running.values():
            running.end()

    def kill(self, name: str) -> None:
        """Kill a process from outside; it is started again."""
        with self._lock:
            self._running[name].process.kill()

    def _start(self, name: str, failpoints: str) -> None:
        ours, theirs = _CONTEXT.Pipe()
        arguments = (self.place, failpoints, self._sabotage.get(name), theirs)
        process = _CONTEXT.Process(target=_ROLES[name], args=arguments, daemon=True, name=name)
        process.start()
        theirs.close()
        with self._lock:
            self._running[name] = _Running(process, ours)
        try:
            port = ours.recv() if ours.poll(_START_S) else None
        except EOFError:
            return  # it died before it was ready; the keeper sees to it
        assert port is not None, f"{name} did not start within {_START_S:g} s"
        if name == "control":
            self.place = replace(self.place, port=port)

    def _keep(self) -> None:
        """Start again what has ended, until the plant stops."""
        while not self._stopping:
            sentinels = {running.process.sentinel: name for name, running in self._running.items()}
            for ended in connection.wait([*sentinels, self._woken]):
                if ended is self._woken or self._stopping:
                    return
                self._revive(sentinels[ended])  # type: ignore[index]

    def _revive(self, name: str) -> None:
        running = self._running[name]
        running.process.join()
        running.held.close()
        if running.process.exitcode == -SIGKILL:
            self.killed.append(name)
            self._start(name, "")
        else:
            self.crashed.append(name)
            del self._running[name]


@contextmanager
def running_plant(
    place: Installation, armed: dict[str, str], sabotage: dict[str, Sabotage] | None = None
) -> Iterator[Plant]:
    """Give a running plant."""
    plant = Plant(place, armed, sabotage)
    try:
        plant.start()
        yield plant
    finally:
        plant.stop()
