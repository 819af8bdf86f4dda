"""``horen db`` and ``horen doctor``."""

import json
from pathlib import Path

import pytest

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.cli import checks
from horen_vllm.cli.checks import home_checks, model_checks, run_check
from horen_vllm.cli.layout import Endpoints, HomeLayout
from horen_vllm.errors import NotFound
from horen_vllm.registry.store import SqlRegistry

from .conftest import Run


def test_upgrade_then_check(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert run("db", "check", "--home", tmp_path).exit_code == 6
    made = run("db", "upgrade", "--home", home, "--json")
    assert made.exit_code == 0, made.output
    checked = run("db", "check", "--database", HomeLayout(home).database_url, "--json")
    assert json.loads(checked.stdout) == json.loads(made.stdout)


def test_a_restore_is_told_and_noted(run: Run, tmp_path: Path) -> None:
    assert run("db", "restored", "--home", tmp_path).exit_code == 6
    run("db", "upgrade", "--home", tmp_path)
    registry = SqlRegistry(HomeLayout(tmp_path).database_url)
    before = registry.epoch()
    told = run("db", "restored", "--home", tmp_path, "--json")
    assert json.loads(told.stdout) == {"epoch": registry.epoch()}
    assert before not in told.stdout
    (event,) = registry.list_audit_events()
    assert (event.method, event.detail["before"]) == ("begin_epoch", before)
    registry.close()


def test_a_database_must_be_named_once(run: Run, tmp_path: Path) -> None:
    none, both = run("db", "check"), run("db", "check", "--home", tmp_path, "--database", "sqlite://")
    assert (none.exit_code, both.exit_code) == (3, 3)
    assert "database_required" in none.stderr
    assert "database_ambiguous" in both.stderr


def test_whatever_a_check_raises_is_a_sentence() -> None:
    def odd() -> str:
        raise ZeroDivisionError("odd")

    def known() -> str:
        raise NotFound("no such file.", code="unknown_artifact")

    assert run_check("a", lambda: "fine.").ok
    assert run_check("b", odd).sentence == "ZeroDivisionError: odd"
    assert run_check("c", known).sentence == "no such file. [unknown_artifact]"


def findings(layout: HomeLayout) -> dict[str, bool]:
    return {name: run_check(name, check).ok for name, check in home_checks(layout)}


def test_a_home_before_its_first_start_is_in_order(tmp_path: Path) -> None:
    assert all(findings(HomeLayout(tmp_path / "home")).values())


def test_damage_in_a_home_is_found(tmp_path: Path) -> None:
    layout = HomeLayout(tmp_path)
    layout.create()
    digest = ArtifactFolder(layout.artifacts).put(b"content")
    assert findings(layout)["artifacts"]
    ArtifactFolder(layout.artifacts).path(digest).write_bytes(b"other")
    layout.database.touch()
    layout.write_endpoints(Endpoints(control="127.0.0.1:1", server="http://127.0.0.1:1", model="m", pids={}))
    assert findings(layout) == {
        "database": False,
        "artifact folder": True,
        "artifacts": False,
        "control plane": False,
        "server": False,
    }


def test_a_model_folder_is_looked_at(model_folder: Path) -> None:
    results = {name: run_check(name, check) for name, check in model_checks(model_folder, None)}
    assert results["model folder"].ok
    assert not results["edit site"].ok
    (model_folder / "config.json").write_text("[]")
    assert "not a JSON object" in run_check("x", dict(model_checks(model_folder, None))["model folder"]).sentence


def test_a_failed_check_is_exit_code_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise NotFound("gone.")

    monkeypatch.setattr(checks, "installation_checks", lambda: [("python", lambda: "fine."), ("vllm", missing)])
    table, as_json = run("doctor"), run("doctor", "--json")
    assert (table.exit_code, as_json.exit_code) == (1, 1)
    assert [line.split()[:2] for line in table.stdout.splitlines()] == [["OK", "python"], ["FAIL", "vllm"]]
    assert [finding["ok"] for finding in json.loads(as_json.stdout)] == [True, False]
