"""One child process of a stack: started under a guardian, asked to stop or killed with all its descendants."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from horen_vllm.cli.exits import error_of_process
from horen_vllm.errors import HorenError, Unavailable

_TAIL_LINES: Final = 20
_TAIL_BYTES: Final = 65536
_NOISE: Final = re.compile(r"\s*(nanobind:|See https://nanobind|- leaked |- \.\.\. skipped)|\s*$")
"""Lines that say nothing: blank ones, and what a library that vLLM uses prints at every exit."""
_KILL_S: Final = 10.0
"""Seconds in which a killed group must be gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSpec:
    """What a part runs and how one sees that it works."""

    name: str
    """Short name, for programs."""
    title: str
    """What people call it."""
    command: tuple[str, ...]
    log: Path
    """File for its stdout and stderr; the last run's is kept beside it with the suffix ``.1``."""
    ready: Callable[[], bool]
    """Returns quickly whether the part does its work."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables on top of this process's."""
    niceness: int = 0
    """By how much its priority is lowered, from 0 to 19."""


class Part:
    """A child process that lives no longer than this object's process.

    Parameters
    ----------
    spec
        What to run.
    """

    def __init__(self, spec: PartSpec) -> None:
        self.spec = spec
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the part's guardian; 0 when it is not running."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start the command; the caller sees to it that the last one has ended."""
        with self._open_log() as log:
            # A session of its own, so that the terminal's Ctrl-C reaches only this process.
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "horen_vllm.cli.guardian", str(self.spec.niceness), *self.spec.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.spec.environment},
                start_new_session=True,
            )

    def status(self) -> int | None:
        """Return the exit status once the part has ended; None while it runs or was never started."""
        return self._process.poll() if self._process is not None else None

    def terminate(self) -> None:
        """Ask the part to end."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> bool:
        """Return whether the part has ended after at most `timeout_s` seconds."""
        if self._process is None:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, timeout_s))
        return self._process.returncode is not None

    def kill(self) -> None:
        """End the part and all its descendants now; harmless when they have ended."""
        if self._process is None or self._process.stdin is None:
            return
        # The guardian kills the group when its lifeline is cut.
        self._process.stdin.close()
        if not self.wait(_KILL_S):
            self._process.kill()
            self._process.wait()
        self._process = None

    def death(self) -> HorenError:
        """Return the error for a part that has ended by itself, with the end of its log as a note."""
        status, lines = self.status(), tail(self.spec.log)
        said = error_of_process(status or 0, lines[-1] if lines else "")
        if said is not None:
            return type(said)(f"the {self.spec.title} cannot run: {said.message}", code=said.code)
        message = f"the {self.spec.title} stopped by itself with {_described(status)}; its log is {self.spec.log}."
        error = Unavailable(message, code="part_died")
        error.add_note("\n".join(f"  {self.spec.name}| {line}" for line in lines))
        return error

    def _open_log(self) -> IO[bytes]:
        log = self.spec.log
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        return log.open("wb")


def tail(path: Path, lines: int = _TAIL_LINES) -> list[str]:
    """Return the last lines of a log that say something; nothing when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if not _NOISE.match(line)][-lines:]


def _described(status: int | None) -> str:
    if status is None or 0 <= status <= 128:
        return f"exit code {status}"
    return f"signal {status - 128 if status > 0 else -status}"
