"""The benchmarks' page: goals and warnings are said, links lead to the results, core and full stand side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.benchmarks_page import page, verdict, warnings

MADE: dict[str, Any] = {
    "command": "python -m bench.x",
    "commit": "0123456789abcdef",
    "uncommitted_changes": False,
    "versions": {"torch": "2"},
    "machine": "x86_64, 2 cores",
    "processor": "A Processor",
    "gpus": ["A GPU"],
    "time": "2026-11-29T00:00:00+00:00",
}
RATIO = {"median": 0.981, "low": 0.97, "high": 0.99}


def row(cell: str, **fields: Any) -> dict[str, Any]:
    times = ("ttft_p50_more_ms", "ttft_p99_more_ms", "tpot_p50_ratio", "tpot_p99_ratio")
    return {"cell": cell, "tokens_ratio": RATIO, **dict.fromkeys(times, RATIO), **fields}


def serving(*rows: dict[str, Any], **fields: Any) -> dict[str, Any]:
    settings = {"shape": "0.5b", "requests": 16, "concurrency": 16, "rounds": 10}
    return {**MADE, "settings": settings, "rows": list(rows), **fields}


def rendered(folder: Path, **results: dict[str, Any]) -> str:
    for name, result in results.items():
        path = folder / "bench" / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
    return page(folder / "bench", folder / "bench" / "serving.png", folder / "docs")


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_serving_says_which_goals_are_met(tmp_path: Path) -> None:
    text = rendered(
        tmp_path,
        serving_cpu=serving(
            row("one", goal=0.97, ttft_goal_ms=None, met=True),
            row("two", goal=0.99, ttft_goal_ms=1.0, met=False),
            row("three", goal=None, ttft_goal_ms=None, met=None),
            {"cell": "four", "goal": 0.99, "ttft_goal_ms": None, "met": False, "error": "gone"},
        ),
    )
    assert line_of(text, "| one ").startswith("| one | 0.981 [0.970, 0.990] | 0.97 | met |")
    assert line_of(text, "| two ").startswith("| two | 0.981 [0.970, 0.990] | 0.99, TTFT p50 + 1 ms | **not met** |")
    assert line_of(text, "| three ").startswith("| three | 0.981 [0.970, 0.990] |  |  |")
    assert line_of(text, "| four ").startswith("| four | could not be measured | 0.99 | **not met** |")
    assert "x86_64, 2 cores (A Processor; A GPU), 2026-11-29, torch 2, commit 0123456789 (" in text
    assert "([numbers](../bench/serving_cpu.json))" in text
    assert "(../bench/serving.png)" in text
    assert (tmp_path / "bench" / "serving.png").exists()


def test_routing_says_which_goals_are_met_where_it_has_goals(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"kind": "raw", "entries": 1000, "batch": 1, "share_of_copy_bandwidth": RATIO}
    shape |= {"sort": "near", "readings": {"ours": 1.25, "three_passes": 3}}
    sides = {"ours": {"milliseconds": 1.5}, "three_passes": {"times_ours": RATIO}}
    rows = [
        {**shape, "method": "a", "sides": sides, "goal": 2.5, "met": False, "ratio": RATIO},
        {**shape, "method": "b", "sides": sides, "goal": None, "met": None, "ratio": None},
        {**shape, "method": "c", "sides": sides, "note": "read twice: at most 1.50 times"},
    ]
    mixed = {"kind": "raw", "entries": 9000, "codebooks": 64, "method": "a", "ratio": RATIO}
    mixed["sides"] = {"one_call": {"milliseconds": 3.0}, "single_calls": {"milliseconds": 2.9}}
    text = rendered(tmp_path, routing={**MADE, "device": "cpu", "threads": 1, "rows": rows, "mixed": [mixed]})
    assert line_of(text, "| raw | 1,000 | 1 | a ").endswith("| 2.5 (0.98 [0.97, 0.99]) | **not met** |")
    assert "| near | 1.50 | 1.25 of 3 |" in line_of(text, "| raw | 1,000 | 1 | a ")
    assert line_of(text, "| raw | 9,000 ") == "| raw | 9,000 | 64 | a | 3.00 | 0.98 [0.97, 0.99] |"
    assert "- Read twice: at most 1.50 times." in text
    assert line_of(text, "| raw | 1,000 | 1 | b ").endswith("|  |  |")
    assert line_of(text, "| raw | 1,000 | 1 | c ").endswith("|  |  |")


def test_updates_show_what_was_measured_before_a_part_failed(tmp_path: Path) -> None:
    times = {"p50": 100.0, "p99": 250.4, "p50_interval": [90.0, 110.0], "p99_interval": [200.0, None]}
    submission = {f"{name}_ms": times for name in ("to_published", "to_first_answer", "to_serving")}
    steps = {
        "flips": {"p50_ms": 0.05, "p99_ms": 0.151},
        "step_after_to_before_a_flip": RATIO,
        "step_to_step_without_a_flip": RATIO,
        "staging": {"p50_ratio": RATIO, "p99_ratio": RATIO},
    }
    failed = {"bulk": "it ended"}
    text = rendered(tmp_path, updates={**MADE, "submission": submission, "steps": steps, "failed": failed})
    assert "**Not measured: bulk (it ended).**" in text
    assert line_of(text, "| submission to serving ").endswith("| 100 [90, 110] | 250 [200, ?] |")
    assert line_of(text, "| a flip").endswith("| 0.05 | 0.15 |")
    assert line_of(text, "| p99 while ").endswith("| 0.981 [0.970, 0.990] |")
    assert "entries at once" not in text


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"quiet": True}, []),
        ({"quiet": False}, ["idle"]),
        ({"uncommitted_changes": True}, ["with uncommitted"]),
        ({"uncommitted_changes": None, "quiet": False}, ["unknown", "idle"]),
    ],
)
def test_a_result_that_is_not_to_be_trusted_is_marked(fields: dict[str, Any], expected: list[str]) -> None:
    found = warnings({**MADE, **fields})
    assert len(found) == len(expected)
    assert all(word in text for word, text in zip(expected, found, strict=True))


def test_a_result_without_history_is_marked_on_the_page(tmp_path: Path) -> None:
    text = rendered(tmp_path, serving_gpu=serving(commit=None, uncommitted_changes=None, quiet=False))
    assert "commit unknown" in text
    assert "**The machine was not idle when the run began.**" in text


def test_core_and_full_grid_stand_side_by_side(tmp_path: Path) -> None:
    core = serving(row("core", goal=None, ttft_goal_ms=None, met=None))
    full = serving(row("whole", goal=None, ttft_goal_ms=None, met=None))
    text = rendered(tmp_path, serving_cpu=core, full__serving_cpu=full)
    assert text.index("| core ") < text.index("# The whole grid") < text.index("| whole ")
    assert "(../bench/full/serving_cpu.json)" in text


def test_a_verdict_is_a_word() -> None:
    assert [verdict(met) for met in (None, True, False)] == ["", "met", "**not met**"]
