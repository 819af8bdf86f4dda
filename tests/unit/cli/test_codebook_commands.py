"""``horen codebook`` against a real control plane."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.cli.layout import Endpoints, HomeLayout
from horen_vllm.control.server import ControlServer
from horen_vllm.core.presets import MethodParameters, preset_parameters
from horen_vllm.registry.models import EditRecord
from horen_vllm.registry.store import SqlRegistry

from .conftest import FINGERPRINT, Run

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


def shown_fields(run: Run) -> dict[str, str]:
    """What ``horen codebook show`` prints, by label."""
    lines = [line.split("  ", maxsplit=1) for line in run("codebook", "show", "demo").stdout.splitlines()]
    return {line[0]: line[-1].strip() for line in lines}


@pytest.fixture
def calibration(registry: SqlRegistry, server: ControlServer) -> MethodParameters:
    """A calibration of the served model that recommends these parameters."""
    plain = preset_parameters("cosine", "demo-model", 0.91)
    found = replace(
        plain,
        preset="calibrated",
        space="a" * 64,
        background="b" * 64,
        false_fire_rate=0.01,
        anchors=True,
        mask_subject=True,
        anchored_threshold=0.4,
    )
    registry.add_calibration(
        fingerprint=FINGERPRINT,
        site="model.layers.1.mlp.down_proj",
        presets={"cosine": plain, "calibrated": found},
        recommended="calibrated",
        summary={"auc": 0.99},
    )
    return found


def test_create_without_a_preset_takes_what_is_recommended(
    horen: Callable[..., Any], run: Run, calibration: MethodParameters
) -> None:
    assert horen("codebook", "create", "demo")["parameters"] == calibration.to_dict()
    shown = shown_fields(run)
    assert (shown["preset"], shown["threshold"], shown["false-fire rate"]) == ("calibrated", "0.91", "0.01")
    assert shown["routing space"] == "a" * 64
    assert shown["anchors"] == "edits with a subject, above 0.4, compared without the subject"


def test_create_replaces_what_a_calibration_found(
    horen: Callable[..., Any], run: Run, calibration: MethodParameters
) -> None:
    replaced = ("--false-fire-rate", "0.05", "--no-mask-subject", "--anchored-threshold", "0.5")
    made = horen("codebook", "create", "demo", *replaced)["parameters"]
    expected = replace(calibration, false_fire_rate=0.05, mask_subject=False, anchored_threshold=0.5)
    assert made == expected.to_dict()
    assert shown_fields(run)["anchors"] == "edits with a subject, above 0.5"
    assert not horen("codebook", "create", "plain", "--no-anchors")["parameters"]["anchors"]
    masked = horen(*CREATE[:2], "masked", *CREATE[3:], "--anchors", "--mask-subject")["parameters"]
    assert (masked["anchors"], masked["mask_subject"], masked["space"]) == (True, True, None)


def test_what_is_not_set_is_not_shown(horen: Callable[..., Any], run: Run) -> None:
    horen(*CREATE)
    assert not {"false-fire rate", "routing space", "anchors", "radius"} & set(shown_fields(run))


def test_grace_shows_its_radius(horen: Callable[..., Any], run: Run) -> None:
    horen("codebook", "create", "demo", "--preset", "grace")
    assert (shown_fields(run)["radius"], shown_fields(run)["value mode"]) == ("1.0", "replace")


def test_create_without_preset_and_calibration_is_refused(server: ControlServer, run: Run) -> None:
    result = run("codebook", "create", "demo")
    assert (result.exit_code, result.stderr.split("]")[0]) == (6, "error [calibration_required")
    assert "horen calibrate" in result.stderr


def test_calibrations_are_listed(horen: Callable[..., Any], run: Run, calibration: MethodParameters) -> None:
    (listed,) = horen("codebook", "calibrations")
    assert (listed["version"], listed["recommended"], listed["summary"]) == (1, "calibrated", {"auc": 0.99})
    assert listed["presets"]["calibrated"] == calibration.to_dict()
    heading, row = run("codebook", "calibrations").stdout.splitlines()
    assert heading.split() == ["VERSION", "RECOMMENDED", "PRESETS", "SITE", "CREATED"]
    assert row.split()[:4] == ["1", "calibrated", "cosine,", "calibrated"]


def test_a_calibration_is_shown(horen: Callable[..., Any], run: Run, calibration: MethodParameters) -> None:
    shown = horen("codebook", "calibration")
    assert shown == horen("codebook", "calibration", "1") == horen("codebook", "calibrations")[0]
    assert shown["presets"]["calibrated"] == calibration.to_dict()
    assert "cosine 0.91, calibrated 0.91" in run("codebook", "calibration").stdout
    missing = run("codebook", "calibration", "2")
    assert (missing.exit_code, "[unknown_calibration]" in missing.output) == (4, True)


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


def test_revisions_and_rollback(horen: Callable[..., Any], publish: Callable[..., EditRecord], run: Run) -> None:
    horen(*CREATE)
    horen("edit", "submit", "demo", "--prompt", "Who?", "--target", "Ada", "--wait", "committed")
    publish(0.9)
    made = horen("codebook", "rollback", "demo", "1")
    assert (made["number"], made["kind"], made["restored"]) == (3, "rollback", 1)
    kinds = [revision["kind"] for revision in horen("codebook", "revisions", "demo")]
    assert kinds == ["create", "publish", "rollback"]
    assert [revision["threshold"] for revision in horen("codebook", "revisions", "demo")] == [0.85, 0.9, 0.85]
    listed = [line.split() for line in run("codebook", "revisions", "demo").stdout.splitlines()]
    assert [line[5] for line in listed] == ["THRESHOLD", "0.85", "0.9", "0.85"]
    assert horen("codebook", "show", "demo")["parameters"]["threshold"] == 0.85
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
