"""A whole run with a model and a control plane in memory: what is recorded, and going on where it was broken off."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horen_vllm.errors import AlreadyExists, FailedPrecondition, HorenError, Unavailable
from horen_vllm.evals.asking.store import read_records
from horen_vllm.evals.questions.drafts import BASE, RETRIEVAL
from horen_vllm.evals.records import Case, Protocol, QuestionKind, Record
from horen_vllm.evals.reporting.report import write_report
from horen_vllm.evals.reporting.run_info import LOOK_UP, RECORDS_FILE, AskingInfo, DatasetInfo, ModelInfo, RunInfo
from horen_vllm.evals.running.books import Books
from horen_vllm.evals.running.phases import Display
from horen_vllm.evals.running.run import EvalRun, Material
from horen_vllm.evals.running.settings import RunSettings

from .doubles import MODEL, MemoryControl, MemoryModel, cases_of

SETTINGS = RunSettings(
    dataset="zsre",
    file=Path("edits.jsonl"),
    arms=(BASE, "cosine", RETRIEVAL, "grace"),
    edits=6,
    checkpoints=(2, 6),
    sample=3,
    supersede=2,
)
DATASET = DatasetInfo(name="zsre", path="zsre/edits.jsonl", sha256="0" * 64, cases=6)


class World:
    """One control plane, one model, and runs on them."""

    def __init__(self, cases: list[Case] | None = None) -> None:
        self.control = MemoryControl()
        self.model = MemoryModel(self.control)
        self.cases = cases or cases_of(6)
        self.name = "test"
        self.asking = AskingInfo(concurrency=1)
        self.fingerprint = ""
        self.display: Display | None = None

    def memory(self, book: str, entries: int) -> int | None:
        """Ten bytes an entry, of whatever codebook."""
        assert entries == (len(self.control.books[book].active) if book in self.control.books else 0)
        return 500 + 10 * sum(len(found.active) for found in self.control.books.values())

    def start(self, folder: Path, *, dataset: DatasetInfo = DATASET, **changes: Any) -> RunInfo:
        chosen = SETTINGS.model_copy(update=changes)
        material = Material(
            answerer=self.model,
            cases=self.cases,
            dataset=dataset,
            model=ModelInfo(name=MODEL, fingerprint=self.fingerprint),
            books=Books(self.control, self.cases, {}, patience_s=0.0, poll_s=0.0, memory=self.memory),
        )
        run = EvalRun(
            chosen,
            material,
            folder,
            name=self.name,
            command="horen eval zsre",
            asking=self.asking,
            display=self.display,
        )
        return run.go()


def records(folder: Path) -> dict[str, Record]:
    return {record.question.question_id: record for record in read_records(folder / RECORDS_FILE)}


def of_kind(found: dict[str, Record], arm: str, kind: QuestionKind, protocol: Protocol | None = None) -> list[Record]:
    return [
        record
        for record in found.values()
        if (record.question.arm, record.question.kind) == (arm, kind)
        if protocol in (None, record.question.protocol)
    ]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    folder = tmp_path_factory.mktemp("whole")
    World().start(folder)
    return records(folder)


def test_each_preset_has_a_codebook_of_its_own_with_the_same_edits(world: World, tmp_path: Path) -> None:
    info = world.start(tmp_path)
    assert set(world.control.books) == {"eval-test-cosine", "eval-test-grace"}
    stream = [case.prompt for case in world.cases]
    for name in ("cosine", "grace"):
        assert [edit.prompt for edit in world.control.books[f"eval-test-{name}"].edits][:6] == stream
        arm = info.arm(name)
        assert arm is not None
        assert [state.checkpoint for state in arm.states] == [2, 6]
        assert len(arm.edits) == 6
        assert len(arm.superseding) == 2
        assert arm.parameters == {"preset": name}
    assert info.finished_at is not None
    assert [case.prompt for case in info.stream] == stream


def test_the_same_questions_are_asked_of_every_arm(whole: dict[str, Record]) -> None:
    asked = {
        arm: {record.question.question_id.split("/", 1)[1] for record in whole.values() if record.question.arm == arm}
        for arm in SETTINGS.arms
    }
    assert asked["cosine"] == asked["grace"]
    without = {name for name in asked["cosine"] if QuestionKind.ROLLED_BACK not in name}
    assert asked[RETRIEVAL] == without
    assert {name.split("/", 1)[1] for name in asked[BASE]} == {name.split("/", 1)[1] for name in asked["cosine"]}


def test_an_edit_is_right_where_it_was_submitted_and_not_before(whole: dict[str, Record]) -> None:
    for kind in (QuestionKind.EDIT, QuestionKind.REPHRASE):
        edited = of_kind(whole, "cosine", kind, Protocol.PAPER)
        assert {record.question.checkpoint for record in edited} == {2, 6}
        assert all(record.metrics["token_accuracy"] == 1.0 for record in edited)
        assert all(record.metrics["right_edit"] == 1.0 for record in edited)
        assert all(record.question.position < record.question.checkpoint for record in edited)  # type: ignore[operator]
        assert all(record.metrics["token_accuracy"] == 0.0 for record in of_kind(whole, BASE, kind, Protocol.PAPER))


def test_negatives_are_compared_with_the_base_model(whole: dict[str, Record]) -> None:
    for kind in (QuestionKind.UNRELATED, QuestionKind.NEAR):
        found = of_kind(whole, "grace", kind)
        assert found
        assert all(record.metrics["unchanged"] == 1.0 and record.metrics["fired"] == 0.0 for record in found)
        assert all(record.expected_edit is None for record in found)


def test_at_the_end_some_are_superseded_and_all_are_rolled_back(whole: dict[str, Record]) -> None:
    superseded = of_kind(whole, "cosine", QuestionKind.SUPERSEDED)
    assert superseded
    assert all(record.metrics["exact"] == 1.0 and record.metrics["right_edit"] == 1.0 for record in superseded)
    restored = of_kind(whole, "cosine", QuestionKind.ROLLED_BACK)
    assert restored
    assert all(record.metrics["unchanged"] == 1.0 for record in restored)
    assert all(record.answer.edit_id is None for record in restored)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(1, 400), min_size=1, max_size=3), edits=st.integers(0, 16))
def test_a_run_that_was_broken_off_anywhere_ends_as_the_whole_one(
    whole: dict[str, Record], tmp_path_factory: pytest.TempPathFactory, stops: list[int], edits: int
) -> None:
    folder, world = tmp_path_factory.mktemp("run"), World()
    left = iter(range(edits))

    def die_once() -> None:
        if next(left, None) is None:
            world.control.on_submission = lambda: None
            raise Unavailable("killed.")

    world.control.on_submission = die_once
    for stop in stops:
        world.model.left = stop
        with suppress(Unavailable):
            world.start(folder)
    world.model.left = None
    with suppress(Unavailable):
        world.start(folder)
    info = world.start(folder)
    found = records(folder)
    assert {name: record.metrics for name, record in found.items()} == {
        name: record.metrics for name, record in whole.items()
    }
    assert {name: (record.answer.text, record.answer.revision) for name, record in found.items()} == {
        name: (record.answer.text, record.answer.revision) for name, record in whole.items()
    }
    assert len(world.model.asked) == len(set(world.model.asked)), "a question that has its record was asked again"
    assert info.finished_at is not None


def test_what_each_codebook_takes_is_told_apart(world: World, tmp_path: Path) -> None:
    info = world.start(tmp_path)
    for name in ("cosine", "grace"):
        arm = info.arm(name)
        assert arm is not None
        assert [state.memory_bytes for state in arm.states] == [20, 60]


def test_a_finished_run_asks_nothing_more(world: World, tmp_path: Path) -> None:
    world.start(tmp_path)
    asked = len(world.model.asked)
    world.start(tmp_path)
    assert len(world.model.asked) == asked


def test_an_edit_that_failed_is_expected_nowhere(world: World, tmp_path: Path) -> None:
    world.control.failing = {case.prompt: "target_not_reached" for case in world.cases[:3]}
    info = world.start(tmp_path)
    arm = info.arm("cosine")
    assert arm is not None
    assert [outcome.failure for outcome in arm.edits] == ["target_not_reached"] * 3 + [None] * 3
    asked = of_kind(records(tmp_path), "cosine", QuestionKind.EDIT)
    failed = [record for record in asked if (record.question.position or 0) < 3]
    assert failed, "no question about a failed edit was asked"
    assert all(record.expected_edit is None and record.metrics["exact"] == 0.0 for record in failed)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seed": 1}, "seed"), ({"sample": 4}, "sample"), ({"arms": (BASE, "cosine")}, "arms")],
)
def test_other_settings_on_the_same_folder_are_refused(
    world: World, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    world.start(tmp_path)
    with pytest.raises(FailedPrecondition) as caught:
        world.start(tmp_path, **changes)
    assert caught.value.code == "run_differs"
    assert f" {named} = " in caught.value.message


def test_another_data_file_on_the_same_folder_is_refused(world: World, tmp_path: Path) -> None:
    world.start(tmp_path)
    with pytest.raises(FailedPrecondition) as caught:
        world.start(tmp_path, dataset=DATASET.model_copy(update={"sha256": "1" * 64}))
    assert caught.value.code == "run_differs"


def test_another_run_of_the_same_name_does_not_take_the_codebook_over(world: World, tmp_path: Path) -> None:
    world.start(tmp_path / "first")
    with pytest.raises(AlreadyExists) as caught:
        world.start(tmp_path / "second")
    assert caught.value.code == "codebook_exists"


def test_a_server_that_does_not_serve_the_codebook_is_told(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horen_vllm.evals.running.books._SERVED_WITHIN_S", 0.0)
    world.model.hidden = {"eval-test-cosine"}
    with pytest.raises(FailedPrecondition) as caught:
        world.start(tmp_path)
    assert caught.value.code == "codebook_not_served"
    assert f"{MODEL}@eval-test-cosine" in caught.value.message


def test_questions_that_the_server_refuses_are_noted_and_count_nowhere(world: World, tmp_path: Path) -> None:
    # The long system prompt alone has more words.
    world.model.too_long = 150
    info = world.start(tmp_path)
    assert not of_kind(records(tmp_path), "cosine", QuestionKind.LONG_SYSTEM)
    assert any("refused" in note and "cosine" in note for note in info.notes)


def test_what_was_refused_before_the_codebook_moved_on_is_noted(world: World, tmp_path: Path) -> None:
    world.model.too_long = 150
    world.start(tmp_path / "whole")
    world.name, world.model.left = "second", len(world.model.asked) - 1
    with pytest.raises(Unavailable):
        world.start(tmp_path / "broken")
    world.model.left, world.model.too_long = None, 10**6
    info = world.start(tmp_path / "broken")
    assert any("no answer" in note and "cosine" in note for note in info.notes)
    assert not of_kind(records(tmp_path / "broken"), "cosine", QuestionKind.LONG_SYSTEM)


def test_without_codebooks_no_control_plane_is_needed(world: World, tmp_path: Path) -> None:
    world.start(tmp_path, arms=(BASE, RETRIEVAL))
    assert not world.control.books
    found = records(tmp_path)
    assert {record.question.arm for record in found.values()} == {BASE, RETRIEVAL}
    assert not of_kind(found, RETRIEVAL, QuestionKind.ROLLED_BACK)


def test_what_finding_the_facts_took_is_written_down_apart_from_the_answers(world: World, tmp_path: Path) -> None:
    found = [part for part in world.start(tmp_path).times if part.name == LOOK_UP]
    assert [(part.arm, part.checkpoint) for part in found] == [(RETRIEVAL, 2), (RETRIEVAL, 6)]
    assert all(part.count > 0 and part.seconds > 0 for part in found)
    assert {one.arm for one in write_report(tmp_path).latency if one.lookup_seconds is not None} == {RETRIEVAL}


def test_two_processes_do_not_work_on_one_folder(world: World, tmp_path: Path) -> None:
    from horen_vllm.evals.asking.store import RecordStore

    with RecordStore(tmp_path / RECORDS_FILE), pytest.raises(HorenError) as caught:
        world.start(tmp_path)
    assert caught.value.code == "run_in_use"
