"""The routing benchmark: orders that turn round, whose ratio counts, when a goal is met, and the sides' answers."""

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from bench import routing
from bench.ratios import ratios_of
from bench.routing_books import KINDS, METHODS, RAW, WHITENED, WIDE, Kind, forms_of, made_keys, near_queries
from bench.routing_clock import WARM, CpuClock, Taken, paired, turns, writes_before
from bench.routing_sides import ONE_CALL, SINGLE_CALLS, copy_of, keys_read_again, mixed_groups, mixed_sides, sides_of
from bench.routing_verdicts import Row, judged, met, of_method, summary
from horen_vllm.core.match import Routed

SMALL = Kind("raw", 32, 0.6)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "raw", SMALL)
    monkeypatch.setattr(routing, "RAW", SMALL)


def ratio(low: float, median: float = 3.0) -> dict[str, float]:
    return {"median": median, "low": low, "high": 4.0}


def row(kind: Kind, method: str, batch: int = 1, *, on_gpu: bool = False, again: float | None = 0.0) -> Row:
    return Row(kind, method, METHODS[method], batch, on_gpu, again)


class CountingClock:
    """Says that a call took as many seconds as calls were made before it."""

    def __init__(self) -> None:
        self.calls = 0

    def taken(self, ask: Callable[[], object]) -> Taken:
        ask()
        self.calls += 1
        return Taken(float(self.calls))


def test_every_order_of_the_sides_meets_every_order_of_the_queries() -> None:
    orders = Counter((sorts[0], names[0]) for _, sorts, names in turns(["near", "far"], ["ours", "copy"], 8 - WARM))
    assert set(orders.values()) == {2}
    assert len(orders) == 4


def test_a_round_asks_every_side_the_same_of_each_sort_and_warm_up_is_left_out() -> None:
    asked = list[tuple[str, float]]()
    sides = {name: partial(lambda name, query: asked.append((name, float(query))), name) for name in ("ours", "copy")}
    queries = {
        "near": lambda number: torch.tensor(float(number)),
        "far": lambda number: torch.tensor(-1.0 - number),
    }
    found = paired(sides, queries, 3, CountingClock())
    assert {sort: {name: len(times) for name, times in of.items()} for sort, of in found.items()} == {
        "near": {"ours": 3, "copy": 3},
        "far": {"ours": 3, "copy": 3},
    }
    assert Counter(query for _, query in asked) == {float(query): 2 for query in (*range(5), *range(-5, 0))}
    assert min(taken.seconds for of in found.values() for times in of.values() for taken in times) == 4 * WARM + 1


@pytest.mark.parametrize(("host", "writes"), [(0.0, 2), (1e-3, 8), (1.0, 256)])
def test_the_device_is_busy_until_the_host_has_launched(host: float, writes: int) -> None:
    assert writes_before(host, 2e-4) == writes


@pytest.mark.parametrize(("low", "expected"), [(2.495, True), (2.49, True), (2.489, False), (2.6, True)])
def test_a_goal_is_met_by_the_lower_bound_but_for_the_margin(low: float, expected: bool) -> None:
    assert met(ratio(low), 2.5) is expected


@pytest.mark.parametrize("again", [0.0, 1.0])
def test_raw_keys_are_held_against_three_readings_whatever_the_method_reads_again(again: float) -> None:
    sides = {"three_passes": ratio(2.5), "faiss_flat": ratio(0.5)}
    found = judged(row(RAW, "horen-reference", again=again), sides, ratio(0.1))
    assert (found["ratio_of"], found["goal"], found["met"]) == ("three_passes / ours", 2.5, True)
    assert ("100 % of the keys are read again" in (found["note"] or "")) is bool(again)
    assert judged(row(RAW, "horen-paper"), {"three_passes": ratio(2.4)}, ratio(0.1))["met"] is False


@pytest.mark.parametrize(("method", "batch"), [("cosine", 1), ("horen-paper", 16)])
def test_a_row_without_a_goal_has_no_verdict(method: str, batch: int) -> None:
    found = judged(row(RAW, method, batch), {"three_passes": ratio(9.0)}, ratio(0.1))
    assert (found["goal"], found["met"], found["note"]) == (None, None, None)


def test_whitened_keys_are_held_against_faiss_on_a_cpu_and_the_copy_on_a_gpu() -> None:
    sides = {"three_passes": ratio(9.0), "faiss_flat": ratio(0.98)}
    on_cpu = judged(row(WHITENED, "cosine", 16), sides, ratio(0.85))
    assert (on_cpu["ratio"]["low"], on_cpu["goal"], on_cpu["met"]) == (0.98, 1.0, False)
    on_gpu = judged(row(WHITENED, "cosine", on_gpu=True, again=None), {"three_passes": ratio(9.0)}, ratio(0.79))
    assert (on_gpu["ratio"]["low"], on_gpu["goal"], on_gpu["met"]) == (0.79, 0.8, True)


def test_keys_that_no_program_holds_whole_are_read_twice_a_step_on_a_gpu() -> None:
    wide = row(WIDE[0], "horen-paper", on_gpu=True, again=None)
    assert wide.naive_readings / wide.readings == 1.5
    note = judged(wide, {"three_passes": ratio(1.3)}, ratio(0.1))["note"]
    assert "twice a step" in note
    assert "at most 1.50" in note
    assert row(WIDE[0], "horen-paper").readings == row(RAW, "horen-paper", on_gpu=True, again=None).readings == 1.0


def test_ratios_are_taken_within_a_round_and_host_time_is_told_apart() -> None:
    keys = made_keys(SMALL, 10, "cpu")
    times = {
        "ours": [Taken(seconds, 0.5) for seconds in (1.0, 2.0, 8.0)],
        "three_passes": [Taken(3.0 * seconds, 0.25) for seconds in (1.0, 2.0, 8.0)],
        "copy": [Taken(0.5 * seconds) for seconds in (1.0, 2.0, 8.0)],
    }
    found = summary(row(SMALL, "horen-paper"), times, keys, 2 * keys.bytes)
    assert found["ratio"] == {"median": 3.0, "low": 3.0, "high": 3.0}
    assert found["met"] is True
    assert found["share_of_copy_bandwidth"]["median"] == 0.25
    assert (found["sides"]["ours"]["milliseconds"], found["sides"]["ours"]["host_milliseconds"]) == (2000.0, 500.0)
    assert "host_milliseconds" not in found["sides"]["copy"]


def test_all_sides_of_a_method_are_asked_and_find_the_same_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.routing_sides._COPIED_ON_CPU", 512)
    keys = made_keys(SMALL, 50, "cpu")
    copy = copy_of(keys)
    copy.run()
    assert copy.moved == 2 * 50 * 32 * 4
    sides = sides_of(keys, copy, memory=1)
    numbered: dict[str, list[Taken]] = {name: [Taken(float(place))] for place, name in enumerate(sides)}
    for form in ("horen-paper", "horen-paper, first scores"):
        found = of_method(numbered, "horen-paper", form)
        assert set(found) == {"ours", "three_passes", "gemm_top_k", "faiss_flat", "copy"}
        assert (found["ours"], found["three_passes"]) == (
            numbered[f"ours:{form}"],
            numbered["three_passes:horen-paper"],
        )
    queries = near_queries(keys, 4, 0.95, 3)
    ours, theirs = sides["ours:cosine"](queries), sides["three_passes:cosine"](queries)
    assert isinstance(ours, Routed)
    assert isinstance(theirs, Routed)
    assert ours.entry.tolist() == theirs.entry.tolist() == sides["faiss_flat"](queries)[1][:, 0].tolist()
    assert "faiss_flat" not in sides_of(keys, copy, memory=0)


def test_first_scores_find_the_entry_of_refined_ones_in_one_reading() -> None:
    keys = made_keys(SMALL, 50, "cpu")
    sides = sides_of(keys, copy_of(keys), memory=1)
    for method, (plain, first) in {name: tuple(forms_of(name)) for name in METHODS if METHODS[name]["steps"]}.items():
        for cosine in (0.95, 0.3):
            queries = near_queries(keys, 4, cosine, 3)
            found = [sides[f"ours:{form}"](queries) for form in (plain, first)]
            assert isinstance(found[0], Routed)
            assert isinstance(found[1], Routed)
            assert found[0].entry.tolist() == found[1].entry.tolist()
            rule = forms_of(method)[first]
            again = keys_read_again(keys, queries, rule)
            assert again == 0.0
            on_gpu = Row(WIDE[0], method, rule, 1, on_gpu=True)
            assert on_gpu.naive_readings / on_gpu.readings == 3.0


def test_the_keys_that_are_read_again_are_counted() -> None:
    keys = made_keys(SMALL, 400, "cpu")
    queries = near_queries(keys, 4, 0.95, 3)
    assert keys_read_again(keys, queries, METHODS["cosine"]) == 0.0
    few = keys_read_again(keys, queries, METHODS["horen-paper"])
    assert few is not None
    assert 0.0 < few < 0.5


def test_one_call_for_many_codebooks_decides_as_single_calls_do() -> None:
    keys = made_keys(SMALL, 70, "cpu")
    groups = mixed_groups(keys, 8, METHODS["horen-paper"])
    assert sum(len(group.key_rows) for group in groups) == 70
    sides = mixed_sides(keys, groups)
    queries = routing._each_near(keys, groups, 0)
    together, alone = sides[ONE_CALL](queries), sides[SINGLE_CALLS](queries)
    assert together.entry.tolist() == [int(one.entry) for one in alone]
    assert (together.entry >= 0).any()


def test_a_run_writes_rows_that_the_regression_check_reads(tmp_path: Path) -> None:
    out = tmp_path / "routing.json"
    routing.main(entries=[30], kind=["raw"], batch=[1], memory=1, mixed=70, out=out)
    result = json.loads(out.read_text())
    assert [(one["method"], one["sort"]) for one in result["rows"]] == [
        (form, sort) for method in METHODS for form in forms_of(method) for sort in ("near", "far")
    ]
    assert {one["goal"] for one in result["rows"]} == {None, 2.5}
    assert len(ratios_of(out)) == len(result["rows"]) * 3 + len(METHODS)


def test_keys_above_the_memory_limit_are_left_out_with_a_note(tmp_path: Path) -> None:
    out = tmp_path / "routing.json"
    routing.main(entries=[30], kind=["raw-18944"], batch=[1], memory=1, mixed=0, out=out)
    result = json.loads(out.read_text())
    assert (result["rows"], result["left_out"][0]["kind"]) == ([], "raw-18944")


def test_the_cpu_clock_calls_once() -> None:
    calls = list[int]()
    assert CpuClock().taken(lambda: calls.append(1)).seconds >= 0.0
    assert calls == [1]
