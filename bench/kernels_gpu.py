"""The kernels on a GPU: clean under compute-sanitizer, their times beside the floor, and block sizes that are faster.

``python -m bench.kernels_gpu`` writes ``bench/results/kernels_gpu.json``, each part when it is done, and ends with 1
when a part failed or the sanitizer complains. Nothing else may use the GPU meanwhile. ``sanitizer``: memcheck and
racecheck of `bench.smoke_kernels` at small sizes, where the tool is installed. ``rates`` and ``floors``: bytes over the
bandwidth of a copy, or operations over the rate of a square product, whichever takes longer, both measured here.
``shapes``: each kernel's block sizes and warps, tried; ``tuned`` has those that the launchers should take instead of
today's. They do not read it: who takes one over runs `bench.kernels_aot` again, which shows spills.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console

from bench.kernel_floors import DEVICE, Sizes, measure_floors, measured_rates
from bench.kernel_tuning import tunables, tuned
from bench.kernels_aot import WIDTHS
from bench.provenance import provenance
from bench.result_parts import ResultParts
from bench.routing_clock import Clock, clock_for

_TOOL: Final = "compute-sanitizer"
_PLACES: Final = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")
_CHECKS: Final = ("memcheck", "racecheck")
_ERRORS: Final = 9
"""Exit status of a run with errors of the sanitizer's."""


def main(
    rounds: Annotated[int, typer.Option(min=10, help="Rounds of each time.")] = 10,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/kernels_gpu.json"),
) -> None:
    """Run all parts on the GPU."""
    parts = ResultParts(out, {**provenance(), "device": torch.cuda.get_device_name(), "rounds": rounds})
    console = Console()
    with parts.part("sanitizer"):
        parts.result["sanitizer"] = sanitized()
        console.print("sanitizer", parts.result["sanitizer"])
    with torch.device("cuda"):
        measure(parts, DEVICE, WIDTHS, clock_for("cuda"), rounds)
    console.print(parts.result.get("floors"), parts.result.get("tuned"))
    unclean = any(not check["clean"] for check in parts.result.get("sanitizer", {}).get("checks", []))
    raise typer.Exit(int(unclean or bool(parts.result["failed"])))


def measure(parts: ResultParts, sizes: Sizes, widths: tuple[int, ...], clock: Clock, rounds: int) -> None:
    """Measure rates, floors and shapes on the current device; the shapes are written one by one."""
    with parts.part("floors"):
        parts.result["rates"] = measured_rates(sizes, clock, rounds)
        parts.result["floors"] = measure_floors(sizes, parts.result["rates"], clock, rounds)
    parts.result["shapes"] = []
    for tunable in tunables(sizes, widths):
        with parts.part(f"shapes: {tunable.name}"):
            parts.result["shapes"].append(tuned(tunable, clock, rounds))
    parts.result["tuned"] = {
        found["kernel"]: found["tuned"] for found in parts.result["shapes"] if found["tuned"] != found["now"]
    }
    parts.write()


def sanitized() -> dict[str, Any]:
    """Return what the sanitizer says of the kernels at small sizes; ``skipped`` where it is not installed."""
    tool = shutil.which(_TOOL, path=os.pathsep.join([os.environ.get("PATH", ""), *_PLACES]))
    if tool is None:
        return {"skipped": f"{_TOOL} is not installed here"}
    return {"checks": [_check(tool, check) for check in _CHECKS]}


def _check(tool: str, check: str) -> dict[str, Any]:
    command = [tool, "--tool", check, "--error-exitcode", str(_ERRORS), sys.executable, "-m", "bench.smoke_kernels"]
    # Torch's cache of memory would hide reads beyond a tensor.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return verdict(check, done.returncode, done.stdout + done.stderr)


def verdict(check: str, status: int, output: str) -> dict[str, Any]:
    """Return whether a run was clean: it ended well, its own checks passed, and the sanitizer counted no error."""
    summaries = [line.strip() for line in output.splitlines() if "SUMMARY" in line]
    none = bool(summaries) and all(re.search(r"\b0 (errors|hazards)\b", line) for line in summaries)
    clean = status == 0 and none and "PASS" in output
    found: dict[str, Any] = {"tool": check, "clean": clean, "status": status, "summary": summaries}
    return found if clean else {**found, "output": output[-3000:]}


if __name__ == "__main__":
    typer.run(main)
