"""What a run keeps, notes and refuses when it is broken off, or when somebody changes what it works with."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from horen_vllm.errors import FailedPrecondition, Unavailable
from horen_vllm.evals.questions.drafts import BASE, RETRIEVAL
from horen_vllm.evals.records import QuestionKind, Record
from horen_vllm.evals.reporting.report import write_report
from horen_vllm.evals.reporting.run_info import RUN_FILE, ArmInfo, AskingInfo, RunInfo
from horen_vllm.evals.reporting.summary_parts import Growth
from horen_vllm.evals.running.control import EditState, EditStatus

from .doubles import Book, cases_of
from .test_run import World, of_kind, records, whole, world

__all__ = ["whole", "world"]

BOOK = "eval-test-cosine"


def arm_of(info: RunInfo, name: str = "cosine") -> ArmInfo:
    found = info.arm(name)
    assert found is not None
    return found


def before_question(world: World, part: str, act: Callable[[Book], None]) -> None:
    """Let `act` change the codebook once, before a question is answered whose id has `part`."""

    def once(question_id: str) -> None:
        if part in question_id:
            world.model.on_question = lambda _id: None
            act(world.control.books[BOOK])

    world.model.on_question = once


def emptied(book: Book) -> None:
    book.edits = [replace(edit, status=EditStatus.INACTIVE) for edit in book.edits]
    book.publish()


def stop_at_submission(world: World, number: int) -> None:
    left = iter(range(number))

    def die_once() -> None:
        if next(left, None) is None:
            world.control.on_submission = lambda: None
            raise Unavailable("killed.")

    world.control.on_submission = die_once


def growth(folder: Path, arm: str = "cosine") -> list[Growth]:
    [found] = [one for one in write_report(folder).editing if one.arm == arm]
    return list(found.growth)


def test_every_answer_says_which_revision_it_is_of(world: World, tmp_path: Path) -> None:
    arm = arm_of(world.start(tmp_path))
    revisions = {state.checkpoint: state.revision for state in arm.states}
    for record in records(tmp_path).values():
        kind, asked = record.question.kind, record.question
        if asked.arm in {BASE, RETRIEVAL}:
            assert record.answer.revision is None
        elif asked.arm == "cosine":
            expected = {
                QuestionKind.SUPERSEDED: arm.superseded_revision,
                QuestionKind.ROLLED_BACK: arm.emptied_revision,
            }.get(kind, revisions[asked.checkpoint])
            assert record.answer.revision == expected


@pytest.mark.parametrize(
    "part", ["cosine/2/strict/rephrase", "cosine/6/paper/edit", "cosine/6/strict/superseded", "cosine/6/paper/rolled"]
)
def test_an_answer_of_a_codebook_that_somebody_changed_is_not_kept_and_asked_again_when_it_is_restored(
    whole: dict[str, Record], world: World, tmp_path: Path, part: str
) -> None:
    kept: list[EditState] = []

    def change(book: Book) -> None:
        kept.extend(book.edits)
        emptied(book)

    before_question(world, part, change)
    with pytest.raises(FailedPrecondition) as caught:
        world.start(tmp_path)
    assert caught.value.code == "revision_differs"
    assert part in caught.value.message
    revisions = {record.answer.revision for record in records(tmp_path).values()}
    assert world.control.books[BOOK].revision not in revisions
    if "rolled" not in part:
        with pytest.raises(FailedPrecondition, match=f"horen codebook rollback {BOOK}") as again:
            world.start(tmp_path)
        assert again.value.code == "revision_differs"
        world.control.books[BOOK].edits = kept
        world.control.books[BOOK].publish()
    assert world.start(tmp_path).finished_at is not None
    assert set(records(tmp_path)) == set(whole)
    assert {name: record.metrics for name, record in records(tmp_path).items()} == {
        name: record.metrics for name, record in whole.items()
    }


def test_another_model_under_the_same_name_is_refused(world: World, tmp_path: Path) -> None:
    world.model.left, world.fingerprint = 50, "a" * 64
    with pytest.raises(Unavailable):
        world.start(tmp_path)
    world.model.left, world.fingerprint = None, "b" * 64
    with pytest.raises(FailedPrecondition) as caught:
        world.start(tmp_path)
    assert caught.value.code == "run_differs"
    world.fingerprint = ""
    assert world.start(tmp_path).model.fingerprint == "a" * 64


def test_how_long_edits_took_is_not_told_where_two_starts_submitted_them(world: World, tmp_path: Path) -> None:
    stop_at_submission(world, 5)
    with pytest.raises(Unavailable):
        world.start(tmp_path)
    info = world.start(tmp_path)
    assert [state.resumed for state in arm_of(info).states] == [0, 1]
    assert any("cosine to 6" in note and "more than one go" in note for note in info.notes)
    first, second = growth(tmp_path)
    assert first.seconds_per_edit is not None
    assert (second.seconds, second.seconds_per_edit) == (None, None)
    assert all(one.seconds_per_edit is not None for one in growth(tmp_path, "grace"))


def test_a_run_of_before_resumed_edits_were_counted_tells_it_by_its_note(world: World, tmp_path: Path) -> None:
    stop_at_submission(world, 5)
    with pytest.raises(Unavailable):
        world.start(tmp_path)
    world.start(tmp_path)
    told = json.loads((tmp_path / RUN_FILE).read_text())
    for arm in told["arms"]:
        for state in arm.get("states", ()):
            del state["resumed"]
    (tmp_path / RUN_FILE).write_text(json.dumps(told))
    first, second = growth(tmp_path)
    assert first.seconds_per_edit is not None
    assert second.seconds_per_edit is None


def test_what_a_codebook_takes_is_known_after_a_run_was_broken_off_too(world: World, tmp_path: Path) -> None:
    for stop in (1, 2, 3):
        stop_at_submission(world, stop)
        with pytest.raises(Unavailable):
            world.start(tmp_path)
    info = world.start(tmp_path)
    for name in ("cosine", "grace"):
        assert [state.memory_bytes for state in arm_of(info, name).states] == [20, 60]
    assert info.memory_baseline == 500


def test_one_reading_that_failed_does_not_spoil_the_later_ones(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = world.memory
    monkeypatch.setattr(
        world, "memory", lambda book, entries: None if (book, entries) == (BOOK, 2) else usual(book, entries)
    )
    info = world.start(tmp_path)
    assert [state.memory_bytes for state in arm_of(info).states] == [None, 60]
    assert [state.memory_bytes for state in arm_of(info, "grace").states] == [20, 60]
    assert "What the codebook of cosine takes in the server after 2 edits is not known." in info.notes


def test_a_question_that_never_gets_an_answer_is_noted_and_the_run_goes_on(world: World, tmp_path: Path) -> None:
    poison = "cosine/2/strict/edit/c0/0"
    world.model.never = {poison}
    info = world.start(tmp_path)
    assert info.finished_at is not None
    assert poison not in records(tmp_path)
    [note] = [note for note in info.notes if poison in note]
    assert "while the server answered others" in note


def test_a_note_on_unanswered_questions_goes_away_once_they_are_answered(world: World, tmp_path: Path) -> None:
    poison = "base/0/strict/edit/c0/0"
    world.model.never = {poison}
    stop_at_submission(world, 0)
    with pytest.raises(Unavailable):
        world.start(tmp_path)
    assert any(poison in note for note in RunInfo.load(tmp_path).notes)
    world.model.never = set()
    info = world.start(tmp_path)
    assert poison in records(tmp_path)
    assert not any(poison in note for note in info.notes)


def test_a_question_that_got_no_answer_is_not_asked_of_a_codebook_that_may_have_moved_on(
    world: World, tmp_path: Path
) -> None:
    poison = "cosine/2/strict/edit/c0/0"
    world.model.never = {poison}
    stop_at_submission(world, 5)
    with pytest.raises(Unavailable):
        world.start(tmp_path)
    world.model.never = set()
    info = world.start(tmp_path)
    assert poison not in records(tmp_path)
    assert any("1 questions to cosine after 2 edits have no answer" in note for note in info.notes)


def test_a_run_may_be_gone_on_with_at_another_pace_and_says_so(world: World, tmp_path: Path) -> None:
    world.model.left = 20
    with suppress(Unavailable):
        world.start(tmp_path)
    world.model.left, world.asking = None, AskingInfo(concurrency=2, timeout_s=30.0)
    info = world.start(tmp_path)
    assert info.asking == AskingInfo(concurrency=1)
    [note] = [note for note in info.notes if note.startswith("Gone on with")]
    assert "concurrency 2 (before: 1), timeout_s 30 (before: 120)" in note


def test_without_ordinary_prompts_the_missing_rate_is_told(world: World, tmp_path: Path) -> None:
    assert any("--ordinary" in note for note in world.start(tmp_path / "books").notes)
    assert not any("--ordinary" in note for note in world.start(tmp_path / "none", arms=(BASE, RETRIEVAL)).notes)


def test_of_a_prompt_that_is_edited_again_only_the_newest_edit_is_asked(tmp_path: Path) -> None:
    cases = cases_of(6)
    cases[4] = replace(cases[4], prompt=cases[0].prompt, subject=cases[0].subject, rephrases=("Who is at its top?",))
    world = World(cases)
    info = world.start(tmp_path, sample=6)
    edits = of_kind(records(tmp_path), "cosine", QuestionKind.EDIT)
    asked = {(record.question.checkpoint, record.question.position) for record in edits}
    assert asked == {(2, 0), (2, 1), *((6, position) for position in (1, 2, 3, 4, 5))}
    assert {record.metrics["normalised"] for record in edits} == {1.0}
    assert any(note.startswith("1 edits of the stream are taken the place of") for note in info.notes)


def test_questions_of_the_plan_are_all_shown_to_whoever_watches(world: World, tmp_path: Path) -> None:
    display = Shown()
    world.display = display
    world.start(tmp_path)
    assert display.wholes["questions"] == (len(records(tmp_path)), 0)
    assert display.wholes["edits"] == (12, 0)
    assert display.moved["questions"] == len(records(tmp_path))
    assert display.moved["edits"] == 12


class Shown:
    """A display that counts."""

    def __init__(self) -> None:
        self.wholes: dict[str, tuple[int, int]] = {}
        self.moved = {"questions": 0, "edits": 0}
        self.unit = "questions"

    def part(self, _title: str, unit: str) -> None:
        self.unit = str(unit)

    def whole(self, unit: str, total: int, done: int) -> None:
        self.wholes[str(unit)] = (total, done)

    def begin(self, _total: int, _done: int) -> None:
        pass

    def advance(self) -> None:
        self.moved[self.unit] += 1
