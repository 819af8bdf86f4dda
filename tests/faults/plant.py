"""An installation of real processes that are killed and restarted; no model, no torch to load for each."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from typing import Any, Final

from tests.faults.parts import Installation, Sabotage, run_control, run_replica, run_worker

_ROLES: Final[dict[str, Any]] = {"control": run_control, "worker": run_worker, "r": run_replica}
"""What a process does, by its name without the number."""
PARTS: Final = ("control", "worker", "r1")
"""Processes of the smallest installation, in the order in which they start."""
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
    """The processes of one installation: each that is killed is started again, without any failpoints.

    Parameters
    ----------
    place
        Database and folder.
    armed
        Failpoints of the first life of each process, by its name.
    sabotage
        What is broken in every life of a process, by its name.
    parts
        Names of the processes.
    """

    def __init__(
        self,
        place: Installation,
        armed: dict[str, str],
        sabotage: dict[str, Sabotage] | None = None,
        parts: Sequence[str] = PARTS,
    ) -> None:
        self.ports: dict[str, int] = {}
        """Where each control plane listens."""
        self.killed: list[str] = []
        """Names of the processes that died of SIGKILL, in order."""
        self.crashed: list[str] = []
        """Names of those that ended in another way; they are not started again."""
        self._place = place
        self._parts = parts
        self._armed = armed
        self._sabotage = sabotage or {}
        self._running: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._wake, self._woken = connection.Pipe()
        self._stopping = False
        self._keeper = threading.Thread(target=self._keep, name="plant", daemon=True)

    def start(self) -> None:
        """Start the processes."""
        for name in self._parts:
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

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process."""
        with self._lock:
            pid = self._running[name].process.pid
        assert pid is not None, "it was started"
        os.kill(pid, number)

    def add(self, name: str) -> None:
        """Start one more process."""
        self._start(name, "")
        self._wake.send("look again")

    def wait_killed(self, times: int = 1) -> None:
        """Wait until processes have died of SIGKILL so often."""
        deadline = time.monotonic() + _START_S
        while len(self.killed) < times:
            assert time.monotonic() < deadline, f"only {self.killed} were killed"
            time.sleep(0.01)

    def _start(self, name: str, failpoints: str) -> None:
        ours, theirs = _CONTEXT.Pipe()
        role = name.rstrip("0123456789")
        # A control plane comes back where it was; the others know the first one.
        place = replace(self._place, name=name, port=self.ports.get(name if role == "control" else "control", 0))
        arguments = (place, failpoints, self._sabotage.get(name), theirs)
        process = _CONTEXT.Process(target=_ROLES[role], args=arguments, daemon=True, name=name)
        process.start()
        theirs.close()
        with self._lock:
            self._running[name] = _Running(process, ours)
        try:
            port = ours.recv() if ours.poll(_START_S) else None
        except EOFError:
            return  # it died before it was ready; the keeper sees to it
        assert port is not None, f"{name} did not start within {_START_S:g} s"
        if role == "control":
            self.ports[name] = port

    def _keep(self) -> None:
        """Start again what was killed, until the plant stops."""
        while not self._stopping:
            with self._lock:
                sentinels = {running.process.sentinel: name for name, running in self._running.items()}
            for ended in connection.wait([*sentinels, self._woken]):
                if self._stopping:
                    return
                if ended is self._woken:
                    self._woken.recv()
                else:
                    self._revive(sentinels[ended])  # type: ignore[index]

    def _revive(self, name: str) -> None:
        running = self._running[name]
        running.process.join()
        running.held.close()
        if running.process.exitcode == -signal.SIGKILL:
            self.killed.append(name)
            self._start(name, "")
        else:
            self.crashed.append(name)
            del self._running[name]


@contextmanager
def running_plant(
    place: Installation,
    armed: dict[str, str],
    sabotage: dict[str, Sabotage] | None = None,
    parts: Sequence[str] = PARTS,
) -> Iterator[Plant]:
    """Give a running plant."""
    plant = Plant(place, armed, sabotage, parts)
    try:
        plant.start()
        yield plant
    finally:
        plant.stop()
