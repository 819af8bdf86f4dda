"""Settings of a run, and what a result says about how it was made."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.errors import FailedPrecondition, InvalidArgument
from horen_vllm.evals.running import provenance
from horen_vllm.evals.running.provenance import command_line, portable, versions
from horen_vllm.evals.running.settings import RunSettings, check_same, default_checkpoints


def chosen(**changes: Any) -> RunSettings:
    usual: dict[str, Any] = {"dataset": "zsre", "file": Path("edits.jsonl"), "edits": 10, "checkpoints": (1, 10)}
    return RunSettings.model_validate(usual | changes)


@settings(deadline=None)
@given(st.integers(1, 10**6))
def test_checkpoints_are_powers_of_ten_and_the_end(edits: int) -> None:
    found = default_checkpoints(edits)
    assert found[-1] == edits
    assert list(found) == sorted(set(found))
    assert all(str(number).strip("0") == "1" for number in found[:-1])
    assert edits <= 10 * (found[-2] if len(found) > 1 else edits)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"arms": ("base", "spoken")}, "unknown_arm"),
        ({"arms": ("base", "facts"), "offline": True}, "unknown_arm"),
        ({"arms": ("base", "cosine"), "offline": True, "static": ("facts",)}, "unknown_arm"),
        ({"arms": ("cosine",)}, "invalid_arms"),
        ({"arms": ("base", "cosine", "cosine")}, "invalid_arms"),
        ({"arms": ("base",), "thresholds": {"cosine": 0.5}}, "invalid_arms"),
        ({"checkpoints": (1, 5)}, "invalid_checkpoints"),
        ({"checkpoints": (5, 1, 10)}, "invalid_checkpoints"),
        ({"checkpoints": ()}, "invalid_checkpoints"),
        ({"sample": 0}, "invalid_sample"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        chosen(**changes).checked()
    assert caught.value.code == code


def test_only_presets_have_codebooks_of_the_runs_own() -> None:
    assert chosen(arms=("base", "cosine", "retrieval", "grace")).checked().books == ("cosine", "grace")
    offline = chosen(arms=("base", "cosine"), offline=True, static=("cosine",)).checked()
    assert offline.books == ()
    assert offline.plan().supersede == 0


def test_the_same_settings_go_on_and_others_do_not(tmp_path: Path) -> None:
    before = chosen(file=Path("/data/one/edits.jsonl")).told()
    check_same(before, chosen(file=Path("/elsewhere/one/edits.jsonl")).told(), tmp_path)
    with pytest.raises(FailedPrecondition) as caught:
        check_same(before, chosen(file=Path("/data/one/edits.jsonl"), seed=3).told(), tmp_path)
    assert caught.value.code == "run_differs"
    assert "seed = 0" in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["eval", "zsre", "/data/zsre/edits.jsonl", "--out", "runs/a"],
            "horen eval zsre zsre/edits.jsonl --out runs/a",
        ),
        (["--home=/var/lib/horen", "../x/y/z.json"], "horen --home=lib/horen y/z.json"),
        (["--api-key", "secret", "--url", "http://127.0.0.1:8000"], "horen --url http://127.0.0.1:8000"),
        (["--api-key=secret", "--api-key-file", "/etc/horen/key"], "horen --api-key-file horen/key"),
        (["--name", "two words"], "horen --name 'two words'"),
        (["/"], "horen ''"),
    ],
)
def test_a_command_is_told_without_secrets_and_without_this_machines_paths(arguments: list[str], told: str) -> None:
    assert command_line(arguments) == told


@settings(deadline=None)
@given(st.text(st.characters(categories=("L", "N"), include_characters="/._-"), min_size=1))
def test_a_path_that_is_told_is_relative(path: str) -> None:
    assert not portable(path).startswith(("/", "../"))


def test_versions_name_the_package_itself() -> None:
    assert {"python", "torch", "tokenizers", "nltk", "rouge-score"} <= set(versions())


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_that_of_the_packages_own_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "package" / "provenance.py"
    here.parent.mkdir()
    here.write_text("1\n")
    (tmp_path / "other.txt").write_text("other\n")
    monkeypatch.setattr(provenance, "__file__", str(here))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "other.txt")
    git(tmp_path, "commit", "-qm", "one")
    assert "commit" not in versions(), "a repository that does not know the package's files"
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-qm", "two")
    found = versions()
    assert len(found["commit"]) == 40
    assert found["uncommitted_changes"] == "no"
    here.write_text("2\n")
    assert versions() == found | {"uncommitted_changes": "yes"}
