"""``horen codebook`` against a real control plane."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.cli.layout import Endpoints, HomeLayout
from horen_vllm.control.server import ControlServer
from horen_vllm.registry.models import EditRecord

from .conftest import Run

CREATE = ("codebook", "create", "demo", "--preset", "cosine", "--threshold", "0.85")


def test_create_show_and_list(horen: Callable[..., Any]) -> None:
    made = horen(*CREATE, "--value-mode", "last", "--window-ratio", "0.5")
    assert made["name"] == "tenants/default/codebooks/demo"
    assert made["parameters"]["value_mode"] == "last"
    assert made["parameters"]["window_ratio"] == 0.5
    assert horen("codebook", "show", "demo") == made
    assert horen("codebook", "list") == [made]


@pytest.mark.parametrize(
    ("options", "parameters", "shown"),
    [
        (
            ("--rank", "4", "--no-end", "--no-chat", "--prefixes", "2"),
            {"rank": 4, "train_end": False, "chat": False, "prefixes": 2, "max_value_rows": 256},
            {"values": "LoRA of rank 4", "end trained": "no", "keyed in": "plain form, behind 2 openings"},
        ),
        (
            ("--max-value-rows", "64", "--end", "--chat"),
            {"rank": 0, "train_end": True, "chat": True, "prefixes": 0, "max_value_rows": 64},
            {"values": "direct vectors, at most 64", "end trained": "yes", "keyed in": "plain and chat form"},
        ),
        (("--value-mode", "answer"), {"value_mode": "answer"}, {"values": "direct vectors"}),
    ],
)
def test_create_takes_the_parameters_of_values_and_contexts(
    horen: Callable[..., Any],
    run: Run,
    options: tuple[str, ...],
    parameters: dict[str, Any],
    shown: dict[str, str],
) -> None:
    made = horen(*CREATE, *options)["parameters"]
    assert {name: made[name] for name in parameters} == parameters
    lines = [line.strip() for line in run("codebook", "show", "demo").stdout.splitlines()]
    for label, text in shown.items():
        assert [line.removeprefix(label).strip() for line in lines if line.startswith(f"{label} ")] == [text]


def test_a_parameter_out_of_range_is_refused_by_the_server(server: ControlServer, run: Run) -> None:
    result = run(*CREATE, "--rank", "65")
    assert (result.exit_code, result.stderr.strip()) == (
        3,
        "error [invalid_parameter]: rank is 65; it must be 0 to 64.",
    )


def test_tables_are_for_people(horen: Callable[..., Any], run: Run) -> None:
    horen(*CREATE)
    shown, listed = run("codebook", "show", "demo").stdout, run("codebook", "list").stdout
    assert "demo-model@demo" in shown
    assert listed.splitlines()[0].split() == ["CODEBOOK", "MODEL", "PRESET", "REVISION", "ENTRIES", "SERVING"]


def test_revisions_and_rollback(horen: Callable[..., Any], publish: Callable[[], EditRecord], run: Run) -> None:
    horen(*CREATE)
    horen("edit", "submit", "demo", "--prompt", "Who?", "--target", "Ada", "--wait", "committed")
    publish()
    made = horen("codebook", "rollback", "demo", "1")
    assert (made["number"], made["kind"], made["restored"]) == (3, "rollback", 1)
    kinds = [revision["kind"] for revision in horen("codebook", "revisions", "demo")]
    assert kinds == ["create", "publish", "rollback"]
    assert "restores revision 2" in run("codebook", "rollback", "demo", "2").stdout


@pytest.mark.parametrize(
    ("revision", "status", "code"),
    [("9", 4, "unknown_revision"), ("0", 3, "invalid_revision"), ("-1", 3, "invalid_revision")],
)
def test_the_server_judges_the_revision_of_a_rollback(
    horen: Callable[..., Any], run: Run, revision: str, status: int, code: str
) -> None:
    horen(*CREATE)
    result = run("codebook", "rollback", "demo", revision)
    assert (result.exit_code, result.stderr.split("]")[0]) == (status, f"error [{code}")


@pytest.mark.parametrize("arguments", [("demo", "1", "--wiat"), ("--wiat", "demo", "1"), ("demo", "-x")])
def test_a_wrong_option_of_a_rollback_is_still_wrong_usage(
    server: ControlServer, run: Run, arguments: tuple[str, ...]
) -> None:
    assert run("codebook", "rollback", *arguments).exit_code == 2


def test_a_rollback_that_nobody_serves_times_out(horen: Callable[..., Any], run: Run) -> None:
    horen(*CREATE)
    result = run("codebook", "rollback", "demo", "1", "--wait", "--timeout", "0.3")
    assert result.exit_code == 7
    assert "error [wait_timeout]" in result.stderr


def test_the_servers_refusals_become_exit_codes(horen: Callable[..., Any], run: Run) -> None:
    horen(*CREATE)
    again, unknown = run(*CREATE), run("codebook", "show", "nothing")
    assert (again.exit_code, again.stderr.split("]")[0]) == (5, "error [codebook_exists")
    assert (unknown.exit_code, unknown.stderr.split("]")[0]) == (4, "error [unknown_codebook")
    assert run("codebook", "create", "other", "--preset", "none").exit_code == 3


def test_a_home_names_its_control_plane(server: ControlServer, tmp_path: Path, run: Run) -> None:
    layout = HomeLayout(tmp_path / "home")
    layout.create()
    nothing = run("codebook", "list", "--home", layout.root)
    assert (nothing.exit_code, nothing.stderr.split("]")[0]) == (7, "error [stack_not_running")
    layout.write_endpoints(Endpoints(control=server.address, server="http://x", model="m", pids={}))
    found = run("codebook", "list", "--home", layout.root, "--json")
    assert json.loads(found.stdout) == []


def test_an_option_wins_over_the_environment(server: ControlServer, run: Run) -> None:
    result = run("codebook", "list", "--control", "127.0.0.1:1")
    assert (result.exit_code, result.stderr.split("]")[0]) == (7, "error [control_unavailable")


def test_unreadable_endpoints_are_data_loss(tmp_path: Path, run: Run) -> None:
    (tmp_path / "endpoints.json").write_text("{")
    assert run("codebook", "list", "--home", tmp_path).exit_code == 8
