"""``horen calibrate``: a new home, a background file, the table and files, and what new codebooks then use."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.cli.layout import HomeLayout
from horen_vllm.editor.calibration.stored import first_calibration
from horen_vllm.editor.loading.model import load_editable_model
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.registry.store import SqlRegistry
from tests.unit.editor.backgrounds import facts
from tests.unit.editor.conftest import save_tiny

from .conftest import Run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def background(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("background") / "asked.jsonl"
    path.write_text("".join(f"{json.dumps(asdict(prompt))}\n" for prompt in facts(400)))
    return path


def test_calibrate(run: Run, model: Path, background: Path, tmp_path: Path) -> None:
    home = HomeLayout(tmp_path / "home")
    done = run("calibrate", "--model", model, "--background", background, "--home", home.root, "--seed", 3)
    assert done.exit_code == 0, done.output
    assert "calibrated, subjects given" in done.stdout
    assert "calibrated on 400 asked.jsonl prompts" in done.stdout
    registry = SqlRegistry(home.database_url)
    editable = load_editable_model(str(model))
    record = registry.calibration(editable.fingerprint)
    assert (
        f"calibration 1 is stored: `horen codebook create NAME` now makes codebooks with preset {record.recommended}"
        in (done.stdout)
    )
    assert set(record.presets) == {"cosine", "horen-paper", "horen-reference", "calibrated", "grace"}
    for parameters in record.presets.values():
        for digest in filter(None, (parameters.space, parameters.background)):
            ArtifactFolder(home.artifacts).read(digest)
    assert record.summary["seed"] == 3
    assert record.summary["comparison"]["recommended"] == record.recommended
    (report,) = (home.root / "calibration").iterdir()
    assert {file.name for file in report.iterdir()} == {"comparison.png", "comparison.json"}
    # What a worker does at its first start, after somebody else has calibrated.
    assert first_calibration(registry, ArtifactFolder(home.artifacts), editable, "", MemoryLimit(1 << 26)) is None
    registry.close()


def test_nothing_is_stored_or_compared_unless_wanted(run: Run, model: Path, background: Path, tmp_path: Path) -> None:
    arguments = ("calibrate", "--model", model, "--background", background, "--out", tmp_path / "out", "--no-store")
    done = run(*arguments, "--no-compare", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["record"], found["comparison"], found["files"]) == (None, None, [])
    compared = run(*arguments, "--json")
    assert compared.exit_code == 0, compared.output
    assert len(json.loads(compared.stdout)["comparison"]["results"]) == 6
    assert (tmp_path / "out" / "comparison.png").exists()


def test_refusals(run: Run, model: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "Who?"}\n')
    refused = run("calibrate", "--model", model, "--background", few, "--no-store")
    assert (refused.exit_code, "too_few_background_prompts" in refused.stderr) == (3, True)
    nowhere = run("calibrate", "--model", model, "--database", "sqlite://")
    assert (nowhere.exit_code, "artifacts_required" in nowhere.stderr) == (3, True)
    assert "database_required" in run("calibrate", "--model", model).stderr
    assert run("calibrate", "--model", model, "--no-store", "--false-fire-rate", 0.5).exit_code == 2
