"""How a process yields the processor to others: what ``nice`` means where the kernel schedules by sessions.

With autogroups (the default of most Linux distributions) a process's nice value counts within its session only, and the
session has one of its own. Imports the standard library only, for the guardian.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Final

_AUTOGROUP: Final = Path("/proc/self/autogroup")
_ATTEMPTS: Final = 20
_PAUSE_S: Final = 0.1
"""The kernel takes such a change from an unprivileged user ten times a second."""


def yield_processor(niceness: int) -> None:
    """Lower the priority of this process and of its session by `niceness`, from 0 to 19; 0 changes nothing."""
    if niceness == 0:
        return
    os.nice(niceness)
    # Without autogroups the file is missing, and the nice value alone decides; in a container it may be read-only.
    with contextlib.suppress(OSError):
        _lower_session(niceness)


def _lower_session(niceness: int) -> None:
    for _ in range(_ATTEMPTS):
        try:
            _AUTOGROUP.write_text(str(niceness), encoding="ascii")
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        else:
            return
