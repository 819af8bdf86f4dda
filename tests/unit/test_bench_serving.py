"""The serving benchmark without servers: who asks what, what a round must find, goals, result files, codebooks."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import provenance as provenance_module
from bench import serving_results, serving_rows
from bench.serving import SHAPES, budgets, model_folder
from bench.serving_books import RAW, WHITENED, Books, Target, link_books, site_of, write_books
from bench.serving_cells import EMPTY, LONG, SHORT, Cell, Group, core, fleets, grid
from bench.serving_clock import Clock
from bench.serving_load import Round, _summary
from bench.serving_results import Results
from bench.serving_rows import PLAIN, Rule, compared, failed, measured, met
from bench.serving_sides import LORA_MODEL, MODEL, Server, common_flags, counted
from bench.serving_workloads import load_workload
from horen_vllm.fingerprint import model_fingerprint
from horen_vllm.static import list_static, read_static

SMALL = Target(Path("model"), site_of(1), "f" * 64, d_in=24, d_out=8)


def test_a_tenth_of_any_ten_requests_is_edited_and_all_codebooks_are_asked() -> None:
    cell = Cell(Books(WHITENED, 10_000, 64), LONG, 0.1)
    asked = [model for number in range(40) for model in cell.models(16 * number, 16)]
    fires = [place for place, model in enumerate(asked) if "-fires-" in model]
    assert fires == list(range(9, 640, 10))
    assert len({asked[place] for place in fires}) == 64
    assert len(set(asked)) == 128
    assert Counter(Counter(model for model in asked if "-silent-" in model).values()) == {9: 64}
    # Ten rounds of sixteen, wherever they begin.
    assert {cell.edited(16 * first, 160) for first in range(20)} == {16}
    assert sum(cell.edited(16 * number, 16) for number in range(10)) == 16


def test_who_is_asked_without_edits_or_with_nothing_else() -> None:
    books = Books(RAW, 10, 1)
    assert Cell(books, LONG).models(5, 2) == [MODEL, MODEL]
    assert Cell(None, LONG).models(5, 2) == [LORA_MODEL, LORA_MODEL]
    assert Cell(books, LONG, 0.0).models(9, 2) == [f"{MODEL}@raw-10-silent-0-of-1"] * 2
    assert Cell(books, LONG, 1.0).models(9, 2) == [f"{MODEL}@raw-10-fires-0-of-1"] * 2
    assert Cell(books, LONG, 1.0).edited(9, 2) == 2


def test_cells_share_a_server_by_codebooks_or_all_together() -> None:
    apart = fleets([*core(on_gpu=False), Cell(None, LONG)], together=False)
    assert [len(fleet.books) for fleet in apart] == [1, 1, 1, 1, 0]
    assert [[len(group.cells) for group in fleet.groups] for fleet in apart] == [[1], [1], [1], [1, 1], [1]]
    together, lora = fleets([*core(on_gpu=True), Cell(None, LONG)], together=True)
    assert len(together.books) == 4
    assert together.groups[0].cells[0].ttft_goal_ms == 1.0
    assert lora.books == ()


def test_the_grid_has_the_goals_of_every_workload_that_they_hold_for() -> None:
    goals = {cell.label: cell.goal for cell in grid(on_gpu=False) if cell.goal is not None}
    assert goals == {
        "whitened-0-in-1 32-32 edited-0": 0.99,
        "whitened-0-in-1 128-128 edited-0": 0.99,
        "whitened-10000-in-64 32-32 edited-0.1": 0.97,
        "whitened-10000-in-64 128-128 edited-0.1": 0.97,
        "whitened-50000-in-1 32-32 edited-0.1": 0.97,
        "whitened-50000-in-1 128-128 edited-0.1": 0.97,
        "raw-50000-in-1 128-128 edited-0.1": 0.95,
        "raw-50000-in-1 32-32 unedited": 0.99,
        "raw-50000-in-1 128-128 unedited": 0.99,
    }
    assert all(cell.goal is not None for cell in core(on_gpu=False))
    assert {cell.workload for cell in core(on_gpu=True)} == {LONG}


def test_no_cell_of_the_grid_is_there_twice() -> None:
    labels = [cell.label for cell in grid(on_gpu=False)]
    assert len(labels) == len(set(labels))
    assert {cell.label for cell in core(on_gpu=False)} <= set(labels)
    assert not [cell for cell in grid(on_gpu=False) if cell.share and not (cell.books and cell.books.entries)]


def test_a_round_in_numbers() -> None:
    workload = load_workload(SHORT, 2)
    outputs: Any = [SimpleNamespace(ttft=0.1, latency=0.1 + 0.31), SimpleNamespace(ttft=0.3, latency=0.3 + 0.62)]
    found = _summary(outputs, workload, 2.0)
    assert found.tokens == 2 * 32 / 2.0
    assert found.ttft_p50_ms == pytest.approx(200.0)
    assert found.ttft_p99_ms == pytest.approx(298.0)
    assert found.tpot_p50_ms == pytest.approx(15.0)


def a_round(tokens: float, ttft: float = 10.0) -> Round:
    return Round(tokens, ttft, ttft, 1.0, 1.0)


@pytest.mark.parametrize(
    ("goal", "ttft_goal", "tokens", "ttft", "expected"),
    [
        pytest.param(None, None, 50.0, 99.0, None, id="no-goal"),
        pytest.param(0.97, None, 96.0, 99.0, True, id="at-the-margin"),
        pytest.param(0.97, None, 95.9, 10.0, False, id="below"),
        pytest.param(0.97, 1.0, 96.0, 11.0, True, id="in-time"),
        pytest.param(0.97, 1.0, 99.0, 11.1, False, id="late"),
    ],
)
def test_a_cell_meets_all_of_its_goals_or_none(
    goal: float | None, ttft_goal: float | None, tokens: float, ttft: float, expected: bool | None
) -> None:
    cell = Cell(EMPTY, LONG, 0.0, goal, ttft_goal)
    found = compared([(a_round(100.0), a_round(tokens, ttft))] * 6)
    assert met(cell, found) is expected


def test_it_is_the_interval_that_meets_a_goal() -> None:
    cell = Cell(EMPTY, LONG, 0.0, 0.97, 1.0)
    slow = compared([(a_round(100.0), a_round(100.0))] * 8 + [(a_round(100.0), a_round(90.0))] * 2)
    assert slow["tokens_ratio"] == {"median": 1.0, "low": 0.9, "high": 1.0}
    assert met(cell, slow) is False
    late = compared([(a_round(100.0), a_round(100.0))] * 8 + [(a_round(100.0), a_round(100.0, 12.0))] * 2)
    assert met(cell, late) is False
    assert failed(cell, "gone")["met"] is False


class Counters:
    """Stands in for a server: its counters say what its requests claim, less what is taken away."""

    def __init__(self, lost: int = 0, found: int = 0) -> None:
        self.url, self.counts, self._lost, self._found = str(id(self)), Counter[str](), lost, found

    def rest(self) -> None:
        pass

    def count(self, name: str) -> int:
        return self.counts[name]

    def settled(self, name: str, _expected: int) -> int:
        return self.counts[name]

    def serve(self, models: list[str]) -> None:
        self.counts["horen_requests_matched_total"] += sum("-fires-" in model for model in models) - self._lost
        self.counts["vllm:prefix_cache_hits_total"] += self._found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    calls: list[tuple[str, int, str]] = []

    def run_round(url: str, models: list[str], _workload: object, number: int, _concurrency: int, salt: str) -> Round:
        calls.append((url, number, salt))
        SERVERS[url].serve(models)
        return a_round(100.0)

    monkeypatch.setattr(serving_rows, "run_round", run_round)
    return calls


SERVERS: dict[str, Counters] = {}


def servers(*made: Counters) -> tuple[Any, ...]:
    SERVERS.update({it.url: it for it in made})
    return made


GROUP = Group((Cell(Books(RAW, 10, 1), LONG, 0.1, 0.95), Cell(Books(RAW, 10, 1), LONG, None, 0.99)))


def test_cells_of_one_server_share_the_plain_rounds(asked: list[tuple[str, int, str]]) -> None:
    plain, other = servers(Counters(), Counters())
    rows = list(measured(GROUP, plain, other, Rule(load_workload(LONG, 16), 4, 32, 0.6), range(11)))
    assert [(row["cell"], row["met"], len(row["pairs"])) for row in rows] == [
        (cell.label, True, 10) for cell in GROUP.cells
    ]
    assert [row["edited_share"] for row in rows] == [0.1, 0.0]
    assert [row["prefix_cache_hit_rates"] for row in rows] == [{PLAIN: 0.0, "other": 0.0}] * 2
    by_round = [[salt for _, number, salt in asked if number == turn] for turn in range(11)]
    assert {len(salts) for salts in by_round} == {3}
    assert Counter(salts[0] for salts in by_round[1:10]) == dict.fromkeys(by_round[0], 3)
    # The two cells ask the same server for the same prompts, so their salts differ.
    assert len({salt for _, _, salt in asked}) == 3


def test_a_cell_whose_edits_do_not_fire_fails_at_once_and_alone(asked: list[tuple[str, int, str]]) -> None:
    plain, other = servers(Counters(), Counters(lost=1))
    alone = Group(GROUP.cells[:1])
    [row] = measured(alone, plain, other, Rule(load_workload(LONG, 16), 4, 32, 0.6), range(11))
    assert row["met"] is False
    assert "round 0: 0 answers were edited, not 1" in row["error"]
    assert {number for _, number, _ in asked} == {0}


def test_a_cell_that_finds_its_prompts_in_the_cache_fails(asked: list[tuple[str, int, str]]) -> None:
    plain, other = servers(Counters(), Counters(found=32))
    rows = list(measured(GROUP, plain, other, Rule(load_workload(LONG, 16), 4, 32, 0.6), range(11)))
    assert [row["error"] for row in rows] == ["round 0: 32 prompt tokens came from the cache, not 0."] * 2
    assert asked


def test_nothing_is_measured_beside_a_plain_server_that_fails(asked: list[tuple[str, int, str]]) -> None:
    plain, other = servers(Counters(found=32), Counters())
    with pytest.raises(RuntimeError, match="32 prompt tokens"):
        list(measured(GROUP, plain, other, Rule(load_workload(LONG, 16), 4, 32, 0.6), range(11)))
    assert asked


def test_a_metrics_page_is_summed_over_labels() -> None:
    page = (
        'a_total{x="1"} 2.0\na_total{x="2"} 3.0\na_total_created{x="1"} 9\n# a_total 7\na_total_more 5\nb_total 4.0\n'
    )
    assert (counted(page, "a_total"), counted(page, "b_total"), counted(page, "c_total")) == (5, 4, 0)


def test_a_server_that_ended_says_how(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("the reason\n")
    ended: Any = SimpleNamespace(poll=lambda: 3, returncode=3)
    with pytest.raises(RuntimeError, match=r"ended with 3:\nthe reason"):
        Server("http://127.0.0.1:9", log, ended).wait()


def test_weights_are_made_by_the_server_where_they_are_many() -> None:
    flags = common_flags(concurrency=16, memory=0.3, compiled=False, dummy=True)
    assert flags[flags.index("--load-format") + 1] == "dummy"
    assert "--load-format" not in common_flags(concurrency=16, memory=0.3, compiled=True, dummy=False)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"commit": "c", "uncommitted_changes": False, "machine": "m"}
    monkeypatch.setattr(serving_results, "provenance", lambda: dict(made))
    monkeypatch.setattr(provenance_module, "busy_cores", lambda: 0.1)


def rows_of(path: Path) -> dict[str, Any]:
    return {row["cell"]: row.get("error", row.get("value")) for row in json.loads(path.read_text())["rows"]}


@pytest.mark.usefixtures("still")
def test_a_run_goes_on_with_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    first = Results(path, {"rounds": 10})
    first.keep({"cell": "a", "value": 1})
    first.keep({"cell": "b", "error": "gone"})
    second = Results(path, {"rounds": 10}, partial=True)
    assert (second.has("a"), second.has("b"), second.has("c")) == (True, False, False)
    second.keep({"cell": "b", "value": 2})
    assert rows_of(path) == {"a": 1, "b": 2}
    assert not Results(path, {"rounds": 10}, again=True).has("a")


@pytest.mark.usefixtures("still")
def test_other_settings_begin_anew_and_a_part_of_them_does_not_replace_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    Results(path, {"rounds": 10}).keep({"cell": "a", "value": 1})
    with pytest.raises(ValueError, match="other settings"):
        Results(path, {"rounds": 20}, partial=True)
    whole = Results(path, {"rounds": 20})
    assert not whole.has("a")
    whole.keep({"cell": "b", "value": 2})
    assert rows_of(path) == {"b": 2}


@pytest.mark.usefixtures("still")
def test_a_file_is_as_quiet_as_the_loudest_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    monkeypatch.setattr(provenance_module, "busy_cores", lambda: 1.5)
    Results(path, {}).keep({"cell": "a", "value": 1})
    monkeypatch.setattr(provenance_module, "busy_cores", lambda: 0.1)
    Results(path, {}).keep({"cell": "b", "value": 1})
    assert json.loads(path.read_text())["quiet"] is False


def test_without_git_a_result_claims_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance_module, "_git", lambda *_: None)
    monkeypatch.delenv("BENCH_COMMIT", raising=False)
    made = provenance_module.provenance()
    assert (made["commit"], made["uncommitted_changes"]) == (None, None)
    monkeypatch.setenv("BENCH_COMMIT", "abc")
    assert provenance_module.provenance()["commit"] == "abc"


def test_time_is_divided_among_cells() -> None:
    now = [0.0]
    clock = Clock(10, 10.0, now=lambda: now[0])
    group = Group(GROUP.cells)
    [fleet] = fleets(GROUP.cells, together=False)
    assert clock.fits(group, start=True)
    assert clock.remaining([fleet]) is None
    clock.started(60.0)
    clock.asked(LONG, 3, 1, 30.0)
    assert clock.seconds(group) == pytest.approx(330.0)
    assert clock.remaining([fleet], [group]) == pytest.approx(60.0 + 2 * 330.0)
    now[0] = 600.0 - 331.0
    assert clock.fits(group)
    assert not clock.fits(group, start=True)
    assert Clock(10, None).fits(group, start=True)


@pytest.mark.parametrize("keys", [RAW, WHITENED])
def test_codebooks_are_written_and_an_interrupted_write_goes_on(tmp_path: Path, keys: str) -> None:
    books = Books(keys, 7, 3)
    folder = write_books(tmp_path, SMALL, books)
    written = {book.name.codebook: book for book in read_static(folder)}
    assert set(written) == {*books.names(fires=True), *books.names(fires=False)}
    assert [len(written[name].entries) for name in books.names(fires=True)] == [3, 2, 2]
    for silent, fires in zip(books.names(fires=False), books.names(fires=True), strict=True):
        assert (written[silent].parameters.threshold, written[fires].parameters.threshold) == (1.0, -1.0)
        assert [it[:2] for it in written[silent].entries] == [it[:2] for it in written[fires].entries]
    assert written[books.names(fires=True)[0]].entries[0][2].keys.shape == (1, books.width(SMALL))
    (folder / "done").unlink()
    broken = next(iter(folder.glob("*/*-silent-1-*/??/*.safetensors")))
    broken.write_bytes(broken.read_bytes()[:10])
    next(iter(folder.glob("*/*-fires-0-*/??/*.safetensors"))).unlink()
    assert write_books(tmp_path, SMALL, books) == folder
    assert len(list(read_static(folder))) == 6


def test_one_server_can_have_all_codebooks(tmp_path: Path) -> None:
    sizes = (Books(RAW, 2, 1), Books(WHITENED, 2, 1), Books(WHITENED, 4, 2))
    folders = [write_books(tmp_path, SMALL, books) for books in sizes]
    for _ in range(2):
        linked = link_books(tmp_path / "linked", folders)
        assert len(list_static(linked)) == 2 + 2 + 4


def test_budgets_hold_every_entry_twice_and_the_space() -> None:
    target = Target(Path("x"), site_of(1), "f" * 64, d_in=4864, d_out=896)
    found = budgets(target, [Books(RAW, 50_000, 1), Books(WHITENED, 10_000, 64)])
    keys = 2 * 4 * (50_000 * 4864 + 10_000 * 2048) + 4 * 1025 * 4864
    assert found == {"key_mib": keys // 2**20 + 64, "value_mib": 2 * 2 * 60_000 * 896 // 2**20 + 64}


def test_half_a_model_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "8b", SHAPES["tiny"])
    for shape in ("tiny", "8b"):
        folder, layer = model_folder(tmp_path, shape)
        fingerprint = model_fingerprint(folder, site_of(layer))
        weights = folder / "model.safetensors"
        before = weights.stat().st_mtime_ns
        assert model_folder(tmp_path, shape) == (folder, layer)
        assert weights.stat().st_mtime_ns == before
        (folder / "complete.json").unlink()
        weights.write_bytes(b"half")
        model_folder(tmp_path, shape)
        assert model_fingerprint(folder, site_of(layer)) == fingerprint
