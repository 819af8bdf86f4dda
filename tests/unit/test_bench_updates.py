"""The update benchmark: intervals of percentiles, pairs of steps, and that a part which fails leaves the others."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import typer

from bench import live_updates, updates
from bench.live_updates import Pair, flip_summary, measure_staging, staging_summary
from bench.quantiles import order_interval, summary
from bench.result_parts import ResultParts
from bench.updates_bulk import BulkFile, rates


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [
        (5, 0.5, (None, None)),
        (6, 0.5, (1, 6)),
        (10, 0.5, (2, 9)),
        (100, 0.5, (40, 61)),
        (100, 0.99, (97, None)),
        (368, 0.99, (360, 368)),
    ],
)
def test_ends_are_known_order_statistics(count: int, share: float, expected: tuple[int | None, int | None]) -> None:
    assert order_interval(range(count, 0, -1), share) == expected


@pytest.mark.parametrize(("count", "share"), [(12, 0.5), (400, 0.99)])
def test_an_interval_holds_the_true_quantile_as_often_as_it_says(count: int, share: float) -> None:
    generator = random.Random(1)
    held = 0
    for _ in range(1000):
        low, high = order_interval([generator.random() for _ in range(count)], share)
        assert low is not None
        assert high is not None
        held += low <= share <= high
    assert held >= 930


def test_times_have_both_percentiles_with_intervals() -> None:
    found = summary([float(number) for number in range(1, 101)])
    assert (found["p50"], found["p99"], found["max"]) == (50.5, 99.0, 100.0)
    assert (found["p50_interval"], found["p99_interval"]) == ([40.0, 61.0], [97.0, None])


@pytest.mark.parametrize(("trials", "expected"), [(5, None), (6, [1.0, 6.0])])
def test_few_loads_have_no_interval(trials: int, expected: list[float] | None) -> None:
    file = BulkFile(Path("bulk"), entries=100, file_bytes=1, artifact_bytes=1, pool_bytes=1)
    assert rates(file, [float(number) for number in range(1, trials + 1)])["interval_s"] == expected


def test_a_part_that_fails_is_recorded_and_the_others_are_written(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    parts = ResultParts(out, {"settings": 1})
    with parts.part("first"):
        parts.result["first"] = 1
    assert json.loads(out.read_text()) == {"settings": 1, "first": 1, "failed": {}}
    with parts.part("second"):
        raise RuntimeError("no such server")
    with parts.part("third"):
        parts.result["third"] = 3
    found = json.loads(out.read_text())
    assert (found["first"], found["third"]) == (1, 3)
    assert found["failed"] == {"second": "RuntimeError: no such server"}


class FakeStack:
    """A system that cannot be reached."""

    def __init__(self, *_settings: object) -> None:
        raise OSError("no port is free")


@pytest.mark.parametrize("steps", [True, False])
def test_a_run_without_a_server_still_measures_steps_and_says_that_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: bool
) -> None:
    monkeypatch.setattr(updates, "Stack", FakeStack)
    monkeypatch.setattr(updates, "measure_steps", lambda *_sizes: flip_summary(flips()) | {"staging": staging()})
    out = tmp_path / "updates.json"
    with pytest.raises(typer.Exit) as ended:
        updates.main(rollbacks=7, steps=steps, out=out)
    assert ended.value.exit_code == 1
    found = json.loads(out.read_text())
    assert ("steps" in found) is steps
    assert found["failed"] == {"stack": "OSError: no port is free"}


def test_the_other_parts_run_behind_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Served:
        control_address, base_url, model_name = "127.0.0.1:1", "http://127.0.0.1:1", "demo"

    def fails(*_arguments: object) -> dict[str, Any]:
        raise TimeoutError("an edit was never served")

    monkeypatch.setattr(updates, "measure_submissions", fails)
    monkeypatch.setattr(updates, "prepare", lambda _client, edits: edits + 1)
    monkeypatch.setattr(updates, "trials", lambda _client, full, number: {"full": full, "trials": number})
    monkeypatch.setattr(updates, "measure_bulk", lambda *arguments: {"full": arguments[4], "entries": arguments[5]})
    parts = ResultParts(tmp_path / "updates.json", {})
    sizes = {"edits": 1, "rollbacks": 7, "entries": 100, "loads": 10}
    updates.measure_served(parts, Served(), tmp_path, sizes)  # type: ignore[arg-type]
    assert parts.result["rollback"] == {"full": 11, "trials": 7}
    assert parts.result["bulk"] == {"full": 11, "entries": 100}
    assert list(parts.result["failed"]) == ["submission"]


def flips() -> dict[str, list[float]]:
    before = [0.01 * number for number in range(1, 13)]
    return {
        "earlier": [2.0 * step for step in before],
        "before": before,
        "flip": [0.001] * 12,
        "after": [1.5 * step for step in before],
    }


def staging() -> dict[str, Any]:
    return staging_summary([Pair([0.01 * scale] * 20, [0.02 * scale] * 19 + [0.05 * scale]) for scale in range(1, 11)])


def test_ratios_of_steps_are_taken_between_neighbours() -> None:
    found = flip_summary(flips())
    assert found["step_after_to_before_a_flip"] == pytest.approx({"median": 1.5, "low": 1.5, "high": 1.5})
    assert found["step_to_step_without_a_flip"]["median"] == pytest.approx(0.5)
    assert (found["flips"]["count"], found["flips"]["p50_ms"]) == (12, 1.0)
    assert found["step_after_a_flip_ms"]["max"] == pytest.approx(180.0)


def test_ratios_of_staging_are_taken_within_a_pair() -> None:
    found = staging()
    assert found["p50_ratio"] == pytest.approx({"median": 2.0, "low": 2.0, "high": 2.0})
    assert found["p99_ratio"]["median"] == pytest.approx(5.0)
    assert (found["pairs"], found["steps"]) == (10, 200)


def test_every_second_pair_begins_without_staging(monkeypatch: pytest.MonkeyPatch) -> None:
    events = list[str]()

    class FakeLoop:
        def step(self) -> float:
            events.append("quiet")
            return 1.0

        def stage(self, *_arguments: object, base: int) -> str:
            return f"ticket {base}"

        def until_staged(self, _ticket: str, record: Any) -> None:
            for _ in range(3):
                events.append("staging")
                record(2.0)

        def unstage(self, _ticket: str) -> None:
            pass

    monkeypatch.setattr(live_updates, "_drain", lambda _loop: None)
    pairs = measure_staging(FakeLoop(), (Path("pack"), "hash"), 3)  # type: ignore[arg-type]
    assert all((pair.quiet, pair.staging) == ([1.0] * 3, [2.0] * 3) for pair in pairs)
    assert events[::3] == ["staging", "quiet", "quiet", "staging", "staging", "quiet"]


def test_the_table_shows_what_was_measured() -> None:
    steps = flip_summary(flips()) | {"staging": staging()}
    rolled = {"p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0}
    assert updates.shown({}).row_count == 0
    assert updates.shown({"rollback": rolled, "steps": steps}).row_count == 6
