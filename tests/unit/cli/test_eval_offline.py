"""``horen eval --offline``: the same metrics of saved codebooks, with nothing but files."""

import json
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.cli.demo_choice import choose
from horen_vllm.demo.paths import demo_model_dir
from tests.e2e.evaluations import write_edits
from tests.unit.evals.asking.saved_books import save_book

from .conftest import Run

CHOICES = choose(3, seed=4)
SAVED = {choice.prompt: choice.target for choice in CHOICES[:2]}
"""The third edit of the stream is not in the codebook."""


@pytest.fixture
def asked(tmp_path: Path) -> tuple[object, ...]:
    file = tmp_path / "edits.jsonl"
    write_edits(file, CHOICES)
    given = ("--offline", "--model", demo_model_dir(), "--codebook", tmp_path / "static", "--out", tmp_path / "run")
    return ("eval", "jsonl", file, *given, "--sample", "3", "--without", "few_shot,long_system", "--json")


def metrics(summary: dict[str, Any], arm: str, protocol: str, kind: str) -> dict[str, Any]:
    [found] = [it for it in summary["groups"] if (it["arm"], it["protocol"], it["kind"]) == (arm, protocol, kind)]
    return {name: number["value"] for name, number in found["metrics"].items()} | {
        f"{name}_count": number["count"] for name, number in found["metrics"].items()
    }


def test_a_saved_codebook_gets_the_metrics_of_one_that_is_served(
    run: Run, asked: tuple[object, ...], tmp_path: Path
) -> None:
    save_book(tmp_path, "facts", SAVED)
    done = run(*asked)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    for protocol in ("paper", "strict"):
        edit = metrics(summary, "facts", protocol, "edit")
        assert (edit["fired"], edit["exact"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
        assert (edit["right_edit"], edit["right_edit_count"]) == (1.0, 2), "the third edit has no entry to fire"
        assert "right_edit" not in metrics(summary, "base", protocol, "edit")
    for arm in ("base", "facts"):
        after = metrics(summary, arm, "continuation", "continue")
        assert (after["long_enough"], after["repetition_count"]) == (1.0, 3)
    arm = json.loads((tmp_path / "run" / "run.json").read_text())["arms"][1]
    assert (arm["name"], arm["preset"], arm["parameters"]["threshold"]) == ("facts", "cosine", 0.99)
    assert len(arm["digest"]) == 64
    assert [edit.get("edit_id") for edit in arm["edits"]] == ["e0", "e1", None]
    assert arm["edits"][2]["failure"] == "no_entry"
    assert "facts is a saved codebook with 2 of the 3 edits of the stream." in summary["run"]["notes"]
    assert "which one should is not known" not in (tmp_path / "run" / "report.html").read_text()


def test_a_run_goes_on_with_the_same_codebooks_only(run: Run, asked: tuple[object, ...], tmp_path: Path) -> None:
    few = (*asked, "--protocols", "paper", "--edits", "2")
    save_book(tmp_path, "facts", SAVED)
    first = run(*few)
    assert first.exit_code == 0, first.output
    assert json.loads(run(*few).stdout) == json.loads(first.stdout)
    for facts, threshold in ((SAVED, 0.98), (dict.fromkeys(SAVED, "Ida"), 0.99)):
        save_book(tmp_path, "facts", facts, threshold=threshold)
        refused = run(*few)
        assert refused.exit_code == 6, refused.output
        assert "error [run_differs]" in refused.stderr
        assert "codebooks" in refused.stderr
