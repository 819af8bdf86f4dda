"""Soaks in a process of their own: the V2 runner and the compiler switches are chosen before vLLM is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.configurations import CONFIGURATIONS

ROOT = Path(__file__).resolve().parents[2]
V2_SHIM = Path(__file__).resolve().parent / "shim"
TIMEOUT_S = 580


def run_module(module: str, *arguments: str, v2: bool = False, timeout_s: float = TIMEOUT_S) -> str:
    """Run a module of the tests, under the V2 runner if asked; fail if it fails, and return what it printed last."""
    paths = [str(V2_SHIM)] if v2 else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        cwd=ROOT,
        timeout=timeout_s,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout[-8000:]


def soak_report(
    name: str,
    model: str,
    site: str,
    folder: Path,
    *,
    requests: int,
    seed: int,
    controls: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Soak one configuration and return its report, whatever it says."""
    configuration = CONFIGURATIONS[name]
    if configuration.needs_compiler:
        pytest.skip("torch.compile on CPU needs g++")
    out = folder / f"{name}.json"
    arguments = ["--model", model, "--site", site, "--configuration", name, "--out", str(out)]
    arguments += ["--requests", str(requests), "--seed", str(seed), *(["--controls"] if controls else [])]
    printed = run_module("tests.e2e.soak", *arguments, v2=configuration.v2, timeout_s=timeout_s)
    assert out.exists(), printed
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report
