"""What the comparison of two runs prints."""

from pathlib import Path

import pytest

from horen_vllm.cli.eval_table import print_comparison
from horen_vllm.evals.records import Record
from tests.unit.evals.reporting.made_runs import info, record, save


def answers(arm: str, values: list[float], **more: float) -> list[Record]:
    return [record(arm=arm, case=case, metrics={"normalised": value, **more}) for case, value in enumerate(values)]


def printed(capsys: pytest.CaptureFixture[str], folder: Path, *arms: str) -> list[str]:
    print_comparison(folder / "a", folder / "b", arms, as_json=False)
    return capsys.readouterr().out.splitlines()


def test_gains_losses_and_their_test_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a", info(), answers("cosine", [0, 0, 0, 0, 1, 1]))
    save(tmp_path / "b", info(), answers("cosine", [1, 1, 1, 0, 0, 1]))
    heads, row, meaning = printed(capsys, tmp_path)
    assert heads.split()[-3:] == ["BETTER", "WORSE", "P"]
    # Three better, one worse: 2 * (1 + 4) / 16.
    assert row.split()[-4:] == ["yes", "3", "1", "0.62"]
    assert "cases" in meaning


def test_a_long_setting_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, text in (("a", "x" * 500), ("b", "y")):
        save(tmp_path / folder, info(settings={"file": text}), answers("cosine", [1]))
    assert printed(capsys, tmp_path)[0] == f"settings.file: {'x' * 100}... / y"


def test_what_is_not_paired_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a", info(), answers("cosine", [0, 1]))
    save(tmp_path / "b", info(), [record(prompt="Another?", metrics={"normalised": 1.0})])
    _, row = printed(capsys, tmp_path)
    assert row.split()[-4:] == ["no", "-", "-", "-"]


def test_metrics_of_one_run_and_arms_that_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a", info(), answers("cosine", [0]) + answers("base", [0]))
    save(tmp_path / "b", info(), answers("grace", [0], semantic=0.5) + answers("base", [0]) + answers("new", [0]))
    lines = printed(capsys, tmp_path, "cosine=grace")
    assert lines[-2:] == ["only in B: new/10/paper/edit", "metric only in B: semantic, of grace/10/paper/edit"]
    assert not [line for line in lines if "base" in line or "only in A" in line]
