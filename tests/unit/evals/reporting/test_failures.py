"""Which answers are failures, and why."""

import pytest

from horen_vllm.evals.records import Protocol, QuestionKind, Record
from horen_vllm.evals.reporting.failures import Reason, failures
from horen_vllm.evals.reporting.run_info import ArmInfo, EditOutcome, StreamedCase
from horen_vllm.evals.reporting.run_records import grouped
from tests.unit.evals.reporting.made_runs import info, record

STREAM = [StreamedCase(case_id=f"c{at}", prompt=f"prompt {at}", target=f"target {at}") for at in range(3)]
ARM = ArmInfo(
    name="cosine",
    model="tiny@a",
    codebook="a",
    edits=(
        EditOutcome(position=0, edit_id="e0"),
        EditOutcome(position=1, edit_id="e1"),
        EditOutcome(position=2, edit_id="e2", failure="target_not_reached"),
    ),
    superseding=(
        EditOutcome(position=0, edit_id="s0", failure="target_too_long"),
        EditOutcome(position=2, edit_id="s2"),
    ),
)
WRONG = {"all_tokens": 0.0, "normalised": 0.0}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (record(expected="e0", metrics=WRONG), Reason.NOT_FIRED),
        (record(expected="e0", edit_id="e1", score=0.9, metrics=WRONG), Reason.OTHER_EDIT),
        (record(expected="e0", edit_id="e0", score=0.9, metrics=WRONG), Reason.WRONG_TEXT),
        (record(QuestionKind.REPHRASE, Protocol.STRICT, case=2, metrics=WRONG), Reason.EDIT_FAILED),
        (record(QuestionKind.NEAR, Protocol.FIRE, edit_id="e1", score=0.9, metrics={"unchanged": 0.0}), Reason.FIRED),
        (record(QuestionKind.NEAR, Protocol.FIRE, edit_id="e1", score=0.9, metrics={"unchanged": 1.0}), Reason.FIRED),
        (record(QuestionKind.NEAR, Protocol.FIRE, metrics={"unchanged": 0.0}), Reason.CHANGED),
        (record(edit_id="e1", score=0.9, metrics=WRONG), Reason.UNKNOWN_EDIT),
        (record(arm="retrieval", metrics=WRONG), Reason.OTHER_TEXT),
        (record(QuestionKind.NEAR, arm="retrieval", metrics={"unchanged": 0.0}), Reason.OTHER_THAN_BEFORE),
        (record(QuestionKind.ROLLED_BACK, metrics={"unchanged": 0.0}), Reason.CHANGED),
    ],
)
def test_why_an_answer_is_wrong(asked: Record, reason: Reason) -> None:
    (found,) = failures(grouped(info(arms=[ARM], stream=STREAM), [asked]))
    assert dict(found.reasons) == {reason: 1}
    assert found.shown[0].reason is reason


@pytest.mark.parametrize(
    "asked",
    [
        record(metrics={"all_tokens": 1.0, "exact": 0.0}),
        record(protocol=Protocol.STRICT, metrics={"normalised": 1.0, "exact": 0.0}),
        record(QuestionKind.NEAR, Protocol.FIRE, metrics={"unchanged": 1.0}),
        record(protocol=Protocol.PASSAGE, expected="e0", edit_id="e0", score=0.9, metrics={"rougeL": 0.5}),
        record(
            QuestionKind.SUB_QUESTION,
            Protocol.PASSAGE,
            expected="e0",
            edit_id="e0",
            score=0.9,
            metrics={"rougeL": 0.02, "contains": 1.0},
        ),
        record(protocol=Protocol.PASSAGE, edit_id="e0", score=0.9, metrics={"rougeL": 0.9}),
        record(arm="retrieval", protocol=Protocol.PASSAGE, metrics={"rougeL": 0.9, "contains": 0.0}),
        record(protocol=Protocol.CONTINUATION, metrics={"repetition": 1.0}),
        record(arm="base", checkpoint=0, metrics=WRONG),
        record(arm="base", checkpoint=0, protocol=Protocol.PASSAGE, metrics={"rougeL": 0.0}),
    ],
)
def test_what_is_no_failure(asked: Record) -> None:
    assert list(failures(grouped(info(arms=[ARM], stream=STREAM), [asked]))) == []


@pytest.mark.parametrize("kind", [QuestionKind.EDIT, QuestionKind.REPHRASE, QuestionKind.SUB_QUESTION])
@pytest.mark.parametrize(
    ("case", "expected", "fired", "metrics", "reason"),
    [
        (0, "e0", "e0", {"rougeL": 0.49, "contains": 0.0}, Reason.WRONG_TEXT),
        (0, "e0", "e1", {"rougeL": 0.2, "contains": 0.0}, Reason.OTHER_EDIT),
        (0, "e0", "e1", {"rougeL": 0.9, "contains": 1.0}, Reason.OTHER_EDIT),
        (0, "e0", None, {"rougeL": 0.0, "contains": 0.0}, Reason.NOT_FIRED),
        (0, "e0", None, {"rougeL": 0.9, "contains": 1.0}, Reason.NOT_FIRED),
        (1, None, "e0", {"rougeL": 0.1, "contains": 0.0}, Reason.UNKNOWN_EDIT),
        (2, None, None, {"rougeL": 0.0, "contains": 0.0}, Reason.EDIT_FAILED),
    ],
)
def test_why_a_passage_is_listed(
    kind: QuestionKind, case: int, expected: str | None, fired: str | None, metrics: dict[str, float], reason: Reason
) -> None:
    score = None if fired is None else 0.9
    asked = record(kind, Protocol.PASSAGE, case=case, expected=expected, edit_id=fired, score=score, metrics=metrics)
    (found,) = failures(grouped(info(arms=[ARM], stream=STREAM), [asked]))
    assert found.shown[0].reason is reason
    assert found.shown[0].overlap == metrics["rougeL"]


def test_a_passage_of_an_arm_without_a_codebook_is_judged_by_its_text_alone() -> None:
    asked = record(arm="retrieval", protocol=Protocol.PASSAGE, metrics={"rougeL": 0.1, "contains": 0.0})
    (found,) = failures(grouped(info(arms=[ARM], stream=STREAM), [asked]))
    assert found.shown[0].reason is Reason.OTHER_TEXT


def test_a_superseded_prompt_fails_with_the_edit_that_came_later() -> None:
    def asked(case: int, fired: str, expected: str | None) -> Record:
        return record(
            QuestionKind.SUPERSEDED,
            case=case,
            targets=(f"new {case}",),
            edit_id=fired,
            score=0.9,
            expected=expected,
            metrics=WRONG,
        )

    # The later edit of case 0 failed, so its first one answers; the later one of case 2 was served, its first failed.
    later = [asked(0, "e0", None), asked(2, "s2", "s2")]
    (found,) = failures(grouped(info(arms=[ARM], stream=STREAM), later))
    first, second = found.shown
    assert (first.reason, first.detail, first.fired) == (Reason.EDIT_FAILED, "target_too_long", STREAM[0])
    assert (second.reason, second.detail) == (Reason.WRONG_TEXT, "")
    assert second.fired == StreamedCase(case_id="c2", prompt="prompt 2", target="new 2")


def test_a_failure_says_which_edit_answered_and_what_the_base_model_says() -> None:
    base = record(arm="base", checkpoint=0, text="before")
    asked = record(expected="e0", edit_id="e1", score=0.91, text="target 1", metrics=WRONG)
    (found,) = failures(grouped(info(arms=[ARM], stream=STREAM), [base, asked]))
    (one,) = found.shown
    assert (one.answer, one.base, one.edit_id, one.score) == ("target 1", "before", "e1", 0.91)
    assert one.fired == STREAM[1]


def test_the_code_of_a_failed_edit_is_told() -> None:
    asked = record(case=2, metrics=WRONG)
    (found,) = failures(grouped(info(arms=[ARM], stream=STREAM), [asked]))
    assert found.shown[0].detail == "target_not_reached"


def test_all_failures_are_counted_and_the_first_shown() -> None:
    asked = [record(case=case, metrics=WRONG) for case in range(9)]
    asked += [record(case=9, metrics={"all_tokens": 1.0})]
    (found,) = failures(grouped(info(arms=[ARM]), asked), most=4)
    assert (found.count, found.asked, [one.position for one in found.shown]) == (9, 10, [0, 1, 2, 3])


def test_only_the_last_checkpoint_counts() -> None:
    asked = [record(checkpoint=10, metrics=WRONG), record(checkpoint=20, metrics={"all_tokens": 1.0})]
    assert list(failures(grouped(info(), asked))) == []
