"""Looking at processes from outside."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def pids_of(folder: Path) -> list[int]:
    """Return the processes that the parts of a dummy stack have written down."""
    return [int(pid) for file in folder.glob("*.pids") for pid in file.read_text().split()]


def eventually(condition: Callable[[], bool], timeout_s: float = 15.0) -> bool:
    """Return whether `condition` holds within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def all_gone(pids: Iterable[int]) -> bool:
    """Return whether none of the processes runs any more, at most a few seconds from now."""
    remaining = list(pids)
    return eventually(lambda: not any(alive(pid) for pid in remaining), 5.0)
