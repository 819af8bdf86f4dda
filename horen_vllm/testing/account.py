"""Which user runs a server that refuses to be root."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from horen_vllm.errors import FailedPrecondition

_UNPRIVILEGED: Final = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """A user that servers run as; None: whoever runs this process."""

    user: pwd.struct_passwd | None

    def popen_options(self) -> dict[str, Any]:
        """Return the options of `subprocess.Popen` that make a program run as this user."""
        if self.user is None:
            return {}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    def give(self, folder: Path) -> None:
        """Make a folder of ours, with all that is in it, this user's."""
        if self.user is None:
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, self.user.pw_uid, self.user.pw_gid, follow_symlinks=False)

    def may_run(self, program: Path) -> bool:
        """Return whether this user can reach `program`, which is elsewhere in a home folder that is closed."""
        try:
            command = [str(program), "--version"]
            subprocess.run(command, check=True, capture_output=True, cwd="/", **self.popen_options())  # noqa: S603
        except PermissionError:
            return False
        return True


def server_account() -> ServerAccount:
    """Return who can run a server on behalf of this process.

    Raises
    ------
    FailedPrecondition
        ``postgres_missing``, when this process is root and the machine has no user for servers.
    """
    if os.geteuid():
        return ServerAccount(None)
    for name in _UNPRIVILEGED:
        try:
            return ServerAccount(pwd.getpwnam(name))
        except KeyError:
            continue
    message = f"PostgreSQL does not run as root, and this machine has none of the users {', '.join(_UNPRIVILEGED)}."
    raise FailedPrecondition(message, code="postgres_missing")
