"""One agent for an engine: a lock that the operating system frees, whatever ends its holder.

With ``--api-server-count N`` vLLM starts N processes for one engine, and each of them constructs the endpoint plugin.
"""

import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Self

from horen_vllm.errors import FailedPrecondition

_PRIVATE: Final = 0o700
_LEFTOVER_AGE_S: Final = 86_400.0
_START_TIME_FIELD: Final = 19
"""Index of a process's start time among the fields of ``/proc/PID/stat`` that follow its name."""


def engine_key(engine_client: Any) -> str:
    """Return a name that all API-server processes of one engine share, and no others on this machine.

    vLLM starts several API servers from one process, which lives as long as they do and has nothing else to serve; a
    single API server is its own. Process ids are reused and every container has its own, hence the start time and the
    namespace.
    """
    several = engine_client.vllm_config.parallel_config._api_process_count > 1  # noqa: SLF001 - vLLM has no other name for it
    owner = os.getppid() if several else os.getpid()
    namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a magic link, not a path
    return f"{namespace}-{owner}-{_start_time(owner)}"


def _start_time(pid: int) -> str:
    # A process may have spaces and parentheses in its name; no field after it has.
    _, _, fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")
    return fields.split()[_START_TIME_FIELD]


def run_folder(root: Path | None, key: str) -> Path:
    """Return the folder of an engine's lock and state, made if need be: readable by this user only.

    Parameters
    ----------
    root
        Folder for all engines; ``horen-UID`` in the temporary folder when None.
    key
        From `engine_key`.

    Raises
    ------
    FailedPrecondition
        ``run_folder_unsafe``, when another user could read or replace what is in it.
    """
    root = root or Path(tempfile.gettempdir()) / f"horen-{os.getuid()}"
    for folder in (root, root / key):
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        # lstat: a link could lead into a folder that somebody else empties.
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            message = f"{folder} is not a folder that only this user can enter: remove it or set HOREN_RUN_DIR."
            raise FailedPrecondition(message, code="run_folder_unsafe")
    return root / key


def clear_run_folders(folder: Path) -> None:
    """Remove what engines that ended at least a day ago have left beside `folder`."""
    for other in folder.parent.iterdir():
        if other == folder or not other.is_dir() or time.time() - other.stat().st_mtime < _LEFTOVER_AGE_S:
            continue
        # A living agent may be that quiet, too: while the control plane is silent it writes nothing.
        with Election(other) as election:
            dead = election.won()
        if dead:
            shutil.rmtree(other, ignore_errors=True)


class Election:
    """A claim to be the agent, backed by an ``flock``.

    The file is opened once and kept: were it removed and made anew, two processes could hold locks on two files.

    Parameters
    ----------
    folder
        From `run_folder`.
    """

    def __init__(self, folder: Path) -> None:
        # Not inherited by programs that this process starts (PEP 446): a lock lives as long as its last descriptor.
        self._file = (folder / "agent.lock").open("ab")

    def won(self) -> bool:
        """Try to become the agent; True once this process is."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Step down."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
