"""The regression check: what counts as worse, and that labels meet their counterparts."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from bench.regression import main, worse


def ratio(median: float, low: float, high: float) -> dict[str, float]:
    return {"median": median, "low": low, "high": high}


@pytest.mark.parametrize(
    ("new", "expected"),
    [(ratio(0.9, 0.85, 0.97), True), (ratio(0.9, 0.85, 0.99), False), (ratio(1.2, 1.1, 1.3), False)],
)
def test_a_ratio_is_worse_when_its_whole_interval_is(new: dict[str, float], expected: bool) -> None:
    assert worse(new, ratio(1.0, 0.9, 1.1), 0.02) is expected


def write(folder: Path, median: float, cell: str = "a") -> Path:
    folder.mkdir(exist_ok=True)
    row: dict[str, Any] = {"cell": cell, "tokens_ratio": ratio(median, median - 0.01, median + 0.01)}
    (folder / "serving_cpu.json").write_text(json.dumps({"rows": [row]}))
    return folder


@pytest.mark.parametrize(("now", "status"), [(0.99, 0), (0.8, 1)])
def test_the_command_says_by_its_status_whether_something_got_worse(tmp_path: Path, now: float, status: int) -> None:
    app = Typer()
    app.command()(main)
    new, old = write(tmp_path / "new", now), write(tmp_path / "old", 1.0)
    done = CliRunner().invoke(app, [str(new), "--against", str(old)])
    assert done.exit_code == status, done.output


def checked(new: Path, old: Path) -> int:
    app = Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(new), "--against", str(old)]).exit_code


def test_a_ratio_that_was_not_measured_fails(tmp_path: Path) -> None:
    new, old = write(tmp_path / "new", 1.0), write(tmp_path / "old", 1.0, cell="b")
    assert checked(new, old) == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    assert checked(empty, old) == 1


def test_a_cell_that_could_not_be_measured_fails(tmp_path: Path) -> None:
    new, old = write(tmp_path / "new", 1.0), write(tmp_path / "old", 1.0)
    (new / "serving_cpu.json").write_text(json.dumps({"rows": [{"cell": "a", "error": "gone"}]}))
    assert checked(new, old) == 1


def test_results_of_a_gpu_are_no_matter_of_a_machine_without(tmp_path: Path) -> None:
    new, old = write(tmp_path / "new", 1.0), write(tmp_path / "old", 1.0)
    (old / "serving_gpu.json").write_text((old / "serving_cpu.json").read_text())
    assert checked(new, old) == 0
    worse_one = write(tmp_path / "gpu", 0.5) / "serving_cpu.json"
    (new / "serving_gpu.json").write_text(worse_one.read_text())
    assert checked(new, old) == 1


def test_a_new_ratio_is_no_regression(tmp_path: Path) -> None:
    new, old = write(tmp_path / "new", 1.0), write(tmp_path / "old", 1.0)
    rows = json.loads((new / "serving_cpu.json").read_text())["rows"]
    (new / "serving_cpu.json").write_text(json.dumps({"rows": [*rows, {**rows[0], "cell": "b"}]}))
    assert checked(new, old) == 0


def test_nothing_to_compare_with_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    assert checked(write(tmp_path / "new", 1.0), tmp_path / "old") == 2


def test_results_are_not_compared_with_themselves(tmp_path: Path) -> None:
    assert checked(write(tmp_path / "old", 1.0), tmp_path / "old") == 2
