"""Which edits take the place of others, and what is asked then."""

from horen_vllm.evals.questions.forgetting import supersedings
from horen_vllm.evals.records import Case, QuestionKind
from tests.unit.evals.questions.stream import towns


def case(number: int, target: str) -> Case:
    return Case(case_id=str(number), line=number, prompt=f"Question {number}?", target=target)


def test_each_gets_the_answer_of_the_next_that_has_another() -> None:
    chosen = [(5, case(5, "Rome")), (2, case(2, "rome")), (9, case(9, "Oslo"))]

    found = supersedings(chosen)

    assert [(one.position, one.target) for one in found] == [(5, "Oslo"), (2, "Oslo"), (9, "Rome")]


def test_without_another_answer_nothing_is_superseded() -> None:
    assert supersedings([(0, case(0, "Rome")), (1, case(1, "Rome"))]) == []
    assert supersedings([]) == []


def test_the_new_answer_is_right_and_after_the_rollback_the_base_is() -> None:
    one = supersedings(enumerate(towns(2)))[0]

    assert (one.after.kind, one.after.text, one.after.targets) == (
        QuestionKind.SUPERSEDED,
        "Who runs Town0?",
        ("Mayor Number1",),
    )
    assert (one.undone.kind, one.undone.text, one.undone.targets) == (QuestionKind.ROLLED_BACK, "Who runs Town0?", ())
