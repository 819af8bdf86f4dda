"""What `bench.kernels_gpu` concludes: floors, shapes to use, and the sanitizer's verdict."""

import stat
from pathlib import Path

import pytest

from bench import kernels_gpu
from bench.kernel_floors import BF16, BYTES, FP32, Work, floor_of
from bench.kernel_tuning import chosen, sweep_shapes
from bench.routing_clock import Taken
from horen_vllm.kernels.route import WIDEST_SWEEP, sweep_shape

RATES = {BYTES: 1000.0, FP32: 100.0, BF16: 1000.0}


@pytest.mark.parametrize(
    ("moved", "operations", "unit", "expected"),
    [
        (2000, 100, FP32, (2.0, "bytes")),
        (2000, 300, FP32, (3.0, "operations")),
        (2000, 300, BF16, (2.0, "bytes")),
    ],
)
def test_a_floor_is_the_longer_of_both(moved: int, operations: int, unit: str, expected: tuple[float, str]) -> None:
    assert floor_of(Work("", moved, operations, unit, lambda: None), RATES) == expected


def times(*seconds: float) -> list[Taken]:
    return [Taken(one) for one in seconds]


def test_a_shape_is_chosen_when_it_is_faster_for_certain() -> None:
    shapes = [{"warps": 4}, {"warps": 8}, {"warps": 16}]
    now = times(*[2.0] * 12)
    sure = chosen(shapes, {"0": now, "1": times(*[1.9] * 12), "2": times(*[1.0] * 12)})
    assert (sure["now"], sure["tuned"]) == ({"warps": 4}, {"warps": 16})
    unsure = chosen(shapes, {"0": now, "2": times(*[1.9] * 6, *[2.1] * 6)})
    assert unsure["tuned"] == {"warps": 4}
    assert [row["shape"]["warps"] for row in unsure["shapes"]] == [4, 16]


def test_todays_sweep_is_among_the_shapes_that_fit() -> None:
    for width in (512, 1024, 2048, 3584, 4864, WIDEST_SWEEP):
        block, keys, warps = sweep_shape(width)
        shapes = sweep_shapes(block)
        assert {"BLOCK_N": keys, "warps": warps} in shapes
        assert len(shapes) >= 2


CLEAN = "PASS route M=0: right\n========= ERROR SUMMARY: 0 errors\n"


@pytest.mark.parametrize(
    ("status", "output", "clean"),
    [
        (0, CLEAN, True),
        (0, "PASS pool\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", True),
        (9, "PASS pool\n========= ERROR SUMMARY: 3 errors\n", False),
        (0, "PASS pool\n========= ERROR SUMMARY: 3 errors\n", False),
        (0, "PASS pool\n========= ERROR SUMMARY: 10 errors\n", False),
        (0, "PASS pool\n========= RACECHECK SUMMARY: 10 hazards displayed (10 errors, 0 warnings)\n", False),
        (1, "FAIL pool\n========= ERROR SUMMARY: 0 errors\n", False),
        (0, "========= ERROR SUMMARY: 0 errors\n", False),
        (0, "PASS pool\n", False),
    ],
)
def test_a_clean_run_needs_checks_that_passed_and_no_error(status: int, output: str, clean: bool) -> None:
    found = kernels_gpu.verdict("memcheck", status, output)
    assert found["clean"] is clean
    assert ("output" in found) is not clean


def test_without_the_tool_the_part_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kernels_gpu, "_PLACES", ())
    assert "not installed" in kernels_gpu.sanitized()["skipped"]


def test_the_tool_runs_the_checks_of_the_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        '#!/bin/sh\necho "PASS $*"\necho "cache off: $PYTORCH_NO_CUDA_MEMORY_CACHING"\necho "SUMMARY: 1 errors"\n'
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    first, second = kernels_gpu.sanitized()["checks"]
    assert (first["tool"], second["tool"], first["clean"]) == ("memcheck", "racecheck", False)
    assert "--tool memcheck --error-exitcode 9" in first["output"]
    assert "-m bench.smoke_kernels" in first["output"]
    assert "cache off: 1" in first["output"]
