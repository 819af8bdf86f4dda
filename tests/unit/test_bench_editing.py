"""The editing benchmark in miniature: what it calls equal, successful, and spent on what."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench.editing_memory import Job, row_growth
from bench.editing_model import Subject, demo_edits, load_subject
from bench.editing_pairs import PLAIN, Setting, measure_pairs, side_parameters
from bench.editing_scaling import measure_scaling
from bench.editing_sides import Book, plain_run, successes
from bench.random_model import Shape, write_random_qwen2
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.registry.models import EditSpec

TINY = Shape(layers=4, hidden=64, inner=96, heads=2, kv_heads=1, vocabulary=1536, spread=0.3)
SETTING = Setting(rounds=2, edits=2, batch=2, limit_bytes=64 * 2**20)
VARIANTS = {"engineering", "early_stop", "product"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = write_random_qwen2(tmp_path_factory.mktemp("model"), TINY)
    return load_subject(folder, demo_edits(6), name="tiny", device="cpu", threshold=0.99)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with (tmp_path / "console").open("w", encoding="utf-8") as file:
        yield Console(file=file)


def test_rounds_give_every_side_its_numbers(subject: Subject, console: Console) -> None:
    result = measure_pairs(subject, SETTING, console)
    assert set(result["sides"]) == {PLAIN, *VARIANTS}
    assert result["sides"]["engineering"]["success_with_end"] == result["sides"][PLAIN]["success_with_end"]
    for name in VARIANTS:
        side = result["sides"][name]
        faster = side["times_faster"]
        assert 0 < faster["min"] <= faster["median"] <= faster["max"]
        # Making a value is a part of the path, so without the rest of it the editor is faster.
        assert side["times_faster_values_only"]["median"] > faster["median"]
        phases = side["seconds_an_edit_by_phase"]
        assert {"prepare", "judge", "train", "encode", "add", "other"} <= set(phases)
        assert phases["other"] >= 0
    assert result["sides"]["product"]["contexts"] >= 2
    assert result["sides"]["early_stop"]["contexts"] == 1


def test_the_sides_of_engineering_train_the_same_value(subject: Subject) -> None:
    # Fewer steps: behind convergence the gradients are rounding, and Adam blows that up.
    parameters = replace(side_parameters(subject.parameters)["engineering"], max_steps=6)
    records = subject.take(0, 2)
    plain = plain_run(subject.editable, records, parameters)
    editor = Book(subject.editable, parameters, MemoryLimit(SETTING.limit_bytes)).run(records, batch=2)
    assert plain.steps == editor.steps == [6, 6]
    assert set(plain.values) == set(editor.values) == {0, 1}
    for place, values in plain.values.items():
        torch.testing.assert_close(editor.values[place], values, atol=1e-4, rtol=1e-4)


def test_a_value_that_does_nothing_is_no_success(subject: Subject) -> None:
    parameters = side_parameters(subject.parameters)["early_stop"]
    records = subject.take(0, 2)
    run = Book(subject.editable, parameters, MemoryLimit(SETTING.limit_bytes)).run(records, batch=2)
    assert successes(subject.editable, records, run, parameters) == (2, 2)
    run.values[0] = torch.zeros_like(run.values[0])
    assert successes(subject.editable, records, run, parameters) == (1, 1)
    del run.values[1]
    assert successes(subject.editable, records, run, parameters) == (0, 0)


def test_an_edit_that_is_refused_is_counted(subject: Subject) -> None:
    parameters = side_parameters(subject.parameters)["product"]
    bad = replace(subject, edits=(EditSpec(prompt="Who?", target=" "), subject.edits[0]))
    run = Book(bad.editable, parameters, MemoryLimit(SETTING.limit_bytes)).run(bad.take(0, 2), batch=2)
    assert dict(run.failed) == {"empty_target": 1}
    assert set(run.values) == {1}


def test_full_codebooks_are_compared_with_the_empty_one(subject: Subject, console: Console) -> None:
    result = measure_scaling(subject, replace(SETTING, rounds=1), (0, 40), console)
    empty, full = result["by_entries"]
    assert (empty["entries"], full["entries"]) == (0, 40)
    assert empty["times_the_cost_when_empty"]["max"] == 1.0
    assert full["seconds_an_edit"] > 0


def test_a_codebook_forgets_the_edits_of_a_round_only(subject: Subject) -> None:
    book = Book(subject.editable, subject.parameters, MemoryLimit(SETTING.limit_bytes))
    first = book.run(subject.take(0, 3), batch=2)
    assert book.copy.entries == len(first.values) == 3
    book.forget()
    assert book.copy.entries == 0
    assert set(book.run(subject.take(0, 3), batch=2).values) == {0, 1, 2}


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_is_read_above_the_loaded_model(subject: Subject) -> None:
    row = row_growth(Job.of(subject, SETTING), 4, 2)
    assert (row["edits"], row["entries"]) == (4, 4)
    assert row["codebook_mib"] > 0
    assert row["after_all_mib"] <= row["peak_mib"] < 500
