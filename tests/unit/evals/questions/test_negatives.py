"""Questions where nothing may fire: which of them are none."""

import pytest

from horen_vllm.evals.questions.negatives import Stream
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import Case, QuestionKind
from tests.unit.evals.questions.stream import towns


def near(text: str, kind: QuestionKind = QuestionKind.NEAR) -> Wording:
    return Wording(case=towns(1)[0], position=0, kind=kind, part=0, text=text, targets=())


@pytest.mark.parametrize(
    ("text", "objection"),
    [
        ("Who runs Village1?", None),
        ("Who runs Town12?", None),
        ("Who founded Town1?", "edited_subject"),
        ("who founded TOWN1, and when?", "edited_subject"),
        ("who runs  town1?", "edited_prompt"),
        ("Name the head of Town0.", "edited_prompt"),
    ],
)
def test_a_near_question_about_an_edited_subject_is_no_negative(text: str, objection: str | None) -> None:
    assert Stream(towns(3)).objection(near(text)) == objection


def test_questions_about_the_same_subject_stay_unless_they_are_edits() -> None:
    stream = Stream(towns(3))

    assert stream.objection(near("Who founded Town1?", QuestionKind.SAME_SUBJECT)) is None
    assert stream.objection(near("Who runs Town1?", QuestionKind.SAME_SUBJECT)) == "edited_prompt"
    assert stream.objection(near("Town2 is run by whom?", QuestionKind.UNRELATED)) == "edited_prompt"


def test_subjects_of_several_words_count_as_a_whole() -> None:
    case = Case(case_id="a", line=1, subject="Old Town", prompt="Who runs Old Town?", target="Ida")
    stream = Stream([case])

    assert stream.objection(near("Who runs the old town hall?")) == "edited_subject"
    assert stream.objection(near("Who runs the town?")) is None


def test_a_case_without_a_subject_objects_to_its_prompt_only() -> None:
    stream = Stream([Case(case_id="a", line=1, prompt="Who runs it?", target="Ida")])

    assert stream.objection(near("Who runs it?")) == "edited_prompt"
    assert stream.objection(near("Who runs that?")) is None
