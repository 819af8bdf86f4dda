"""``horen edit batch`` against a real control plane."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer
from horen_vllm.registry.store import SqlRegistry

from .conftest import Run

BATCH = ("edit", "batch")
INTO = ("--codebook", "demo")


@pytest.fixture(autouse=True)
def demo(server: ControlServer) -> None:
    with HorenClient(server.address) as client:
        client.create_codebook("demo", preset="cosine", threshold=0.85)


def line(number: int, **more: Any) -> str:
    return json.dumps({"prompt": f"Question {number}?", "target": "Ada", **more})


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str) -> Path:
        path = tmp_path / "edits.jsonl"
        path.write_text("\n".join(lines))
        return path

    return write


def stored(horen: Callable[..., Any]) -> list[str]:
    return [edit["spec"]["prompt"] for edit in horen("edit", "list", "demo")]


def test_a_file_is_stored_in_order(run: Run, horen: Callable[..., Any], file: Callable[..., Path]) -> None:
    whole = line(0, subject="Question", aliases=["Q"], paraphrases=["Ask 0?"], must_not_fire=["Who?"])
    result = run(*BATCH, file(whole, "", *map(line, range(1, 500))), *INTO)
    assert (result.exit_code, result.stdout.split(", ")[:2]) == (0, ["500 stored", "0 refused"])
    assert stored(horen) == [f"Question {number}?" for number in range(500)]
    assert horen("edit", "list", "demo")[0]["spec"] == {
        "prompt": "Question 0?",
        "target": "Ada",
        "subject": "Question",
        "aliases": ["Q"],
        "paraphrases": ["Ask 0?"],
        "must_not_fire": ["Who?"],
    }


def test_refusals_name_file_and_line_and_stop_nothing(
    run: Run, horen: Callable[..., Any], file: Callable[..., Path]
) -> None:
    path = file(
        line(1),
        "not JSON",
        line(2, target=" "),
        line(3, colour="red"),
        '["a list"]',
        '{"prompt": "No target?"}',
        line(4, aliases="A"),
        '{"prompt": "Half?", "target": "\\udcff"}',
        line(5),
    )
    result = run(*BATCH, path, *INTO)
    assert result.exit_code == 1
    told = {text.split(": ", 1)[0]: text.split("[")[1].split("]")[0] for text in result.stderr.splitlines()}
    wrong = dict.fromkeys((f"{path}:{number}" for number in (2, 4, 5, 6, 7, 8)), "invalid_line")
    assert told == {**wrong, f"{path}:3": "empty_target"}
    assert result.stdout.startswith("2 stored, 7 refused, ")
    assert stored(horen) == ["Question 1?", "Question 5?"]


def test_json_has_an_object_for_each_line(run: Run, file: Callable[..., Path]) -> None:
    result = run(*BATCH, file(line(1), line(2, target=""), line(3)), *INTO, "--json")
    assert result.exit_code == 1
    told = [json.loads(text) for text in result.stdout.splitlines()]
    assert [(it["line"], it["state"], it["code"]) for it in told] == [
        (1, "committed", None), (2, None, "empty_target"), (3, "committed", None),
    ]  # fmt: skip
    assert told[0]["edit"].startswith("tenants/default/codebooks/demo/edits/")


def test_a_file_that_is_sent_again_is_answered(run: Run, horen: Callable[..., Any], file: Callable[..., Path]) -> None:
    first = [json.loads(it) for it in run(*BATCH, file(line(1), line(2), line(2)), *INTO, "--json").stdout.splitlines()]
    # Resumed with more, in another order.
    again = run(*BATCH, file(line(3), line(2), line(1), line(2)), *INTO, "--json")
    second = [json.loads(it) for it in again.stdout.splitlines()]
    assert {it["edit"] for it in first} < {it["edit"] for it in second}
    assert stored(horen) == ["Question 1?", "Question 2?", "Question 2?", "Question 3?"]
    # With an end they are others.
    assert run(*BATCH, file(line(1)), *INTO, "--ttl", "60").exit_code == 0
    assert len(stored(horen)) == 5


def test_standard_input_is_a_file_too(horen: Callable[..., Any], server: ControlServer) -> None:
    from typer.testing import CliRunner

    from horen_vllm.cli.app import app

    result = CliRunner().invoke(app, [*BATCH, "-", *INTO], input=f"{line(1)}\n{line(2)}\n")
    assert result.exit_code == 0
    assert stored(horen) == ["Question 1?", "Question 2?"]


def test_files_and_codebooks_that_are_not_there(run: Run, file: Callable[..., Path], tmp_path: Path) -> None:
    missing = run(*BATCH, tmp_path / "none.jsonl", *INTO)
    assert (missing.exit_code, missing.stderr.split("]")[0]) == (4, "error [file_unreadable")
    result = run(*BATCH, file(line(1)), "--codebook", "nothing")
    assert result.exit_code == 1
    assert "error [unknown_codebook]" in result.stderr


@pytest.mark.timeout(300)
def test_ten_thousand_edits_are_stored_and_reported(run: Run, registry: SqlRegistry, file: Callable[..., Path]) -> None:
    result = run(*BATCH, file(*map(line, range(10_000))), *INTO, "--json")
    assert result.exit_code == 0
    assert [json.loads(text)["line"] for text in result.stdout.splitlines()] == list(range(1, 10_001))
