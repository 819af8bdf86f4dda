"""Runs one command so that nothing of it outlives the command itself or the process that asked for it.

``python -m horen_vllm.cli.guardian NICENESS COMMAND...`` with a pipe as stdin:

- the command runs in a process group of its own, at a priority lowered by NICENESS (0 to 19);
- SIGTERM to the guardian is passed on to the command alone;
- when the command ends, what is left of its group is killed, and the guardian ends with its status;
- when the pipe's other end is closed, by choice or because its owner was killed, the whole group is killed;
- when the guardian itself is killed, the kernel kills the command.

Knows nothing of horen, and imports the standard library only, because one runs beside each part.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

from horen_vllm.cli.priority import yield_processor

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_REAP_S: Final = 5.0
"""Seconds that killed descendants get to disappear."""


def main(niceness: int, command: list[str]) -> int:
    """Run `command` and return its exit status, 128 + N when signal N ended it."""
    yield_processor(niceness)
    libc = ctypes.CDLL(None)
    # Orphans of the command come to us instead of init, so none stays behind as a zombie.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Between the command's start and the handler, SIGTERM would end us and leave the command's children behind.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    child = subprocess.Popen(  # noqa: S603 - the caller's own command
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=_dies_with(os.getpid(), libc),  # noqa: PLW1509 - this process has one thread
    )
    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _wait_for_end(child.pid)
    # The ended leader is not reaped yet, so the group's number cannot belong to anyone else.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    status = child.wait()
    _reap_orphans()
    return status if status >= 0 else 128 - status


def _dies_with(guardian: int, libc: ctypes.CDLL) -> Callable[[], None]:
    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian:
            os._exit(1)

    return prepare


def _wait_for_end(pid: int) -> None:
    """Return when process `pid` has ended or the other end of stdin is closed."""
    lifeline, process = sys.stdin.fileno(), os.pidfd_open(pid)
    while True:
        ready, _, _ = select.select([lifeline, process], [], [])
        if process in ready or not os.read(lifeline, 1):
            return


def _reap_orphans() -> None:
    deadline = time.monotonic() + _REAP_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
