"""How one wording is asked by each protocol."""

from dataclasses import replace

from horen_vllm.evals.questions.asked import as_fire, as_passage, as_strict
from horen_vllm.evals.questions.continuations import as_continuation
from horen_vllm.evals.questions.drafts import Arm, Form, base_question_id
from horen_vllm.evals.questions.paper import as_paper
from horen_vllm.evals.questions.wordings import Wording, unanswered, wordings
from horen_vllm.evals.records import Case, Message, Probe, ProbeKind, Protocol, QuestionKind
from tests.unit.evals.questions.stream import towns, words


def wording(kind: QuestionKind = QuestionKind.EDIT) -> Wording:
    return wordings(towns(3)[2], 2, kind)[0]


def test_the_paper_asks_a_completion_as_long_as_the_target_behind_a_space() -> None:
    seen = []

    def count(text: str) -> tuple[int, ...]:
        seen.append(text)
        return (7, 8, 9)

    draft = as_paper(wording(), Form(), count)

    assert seen == [" Mayor Number2"]
    assert (draft.prompt, draft.messages, draft.max_tokens) == ("Who runs Town2?", (), 3)
    assert draft.targets == ("Mayor Number2",)


def test_a_locality_question_is_as_long_as_the_answer_of_the_file_or_else_as_the_form_says() -> None:
    assert as_paper(wording(QuestionKind.UNRELATED), Form(locality=5), words).max_tokens == 2
    assert as_paper(wording(QuestionKind.NEAR), Form(locality=5), words).max_tokens == 5


def test_a_target_without_a_token_is_asked_for_one() -> None:
    assert as_paper(wording(), Form(), lambda _: ()).max_tokens == 1


def test_the_strict_protocol_asks_a_chat_and_gives_every_target_the_same_length() -> None:
    drafts = [as_strict(wording(kind), Form(strict=40)) for kind in (QuestionKind.EDIT, QuestionKind.REPHRASE)]

    assert [draft.messages for draft in drafts] == [
        (Message(role="user", content="Who runs Town2?"),),
        (Message(role="user", content="Town2 is run by whom?"),),
    ]
    assert {draft.prompt for draft in drafts} == {None}
    assert {draft.max_tokens for draft in drafts} == {40}


def test_without_a_chat_template_the_strict_protocol_asks_a_completion() -> None:
    draft = as_strict(wording(), Form(chat=False))

    assert (draft.prompt, draft.messages) == ("Who runs Town2?", ())


def test_every_protocol_has_its_own_length() -> None:
    form = Form(passage=300, continuation=200, fire=9)

    assert as_passage(wording(), form).max_tokens == 300
    assert as_fire(wording(QuestionKind.NEAR), form).max_tokens == 9
    continuation = as_continuation(wording(), form)
    assert (continuation.kind, continuation.prompt) == (QuestionKind.CONTINUE, "Who runs Town2?")
    assert continuation.max_tokens == continuation.min_tokens == 200
    assert {as_passage(wording(), form).min_tokens, as_fire(wording(), form).min_tokens} == {None}


def test_a_continuation_of_an_exact_length_is_another_question_than_one_without() -> None:
    draft = as_continuation(wording(), Form(continuation=200))
    asked = draft.question(Arm(name="cosine", model="m@c"), 5)

    assert asked.min_tokens == 200
    assert asked.question_id == "cosine/5/continuation/continue/town2/0-200"
    assert base_question_id(asked.question_id) == draft.question(Arm(name="base", model="m"), 0).question_id
    assert replace(draft, min_tokens=None).key == "continuation/continue/town2/0"


def test_the_base_has_one_question_for_that_of_any_arm_at_any_checkpoint() -> None:
    draft = as_strict(wording(QuestionKind.REPHRASE), Form())
    base = draft.question(Arm(name="base", model="m"), 0)

    for arm, checkpoint in (("calibrated", 100), ("retrieval", 1000)):
        asked = draft.question(Arm(name=arm, model="m@c"), checkpoint)
        assert base_question_id(asked.question_id) == base.question_id != asked.question_id
        assert (asked.arm, asked.model, asked.checkpoint) == (arm, "m@c", checkpoint)
        assert (asked.case_id, asked.position) == ("town2", 2)


def test_slashes_in_the_name_of_a_case_do_no_harm() -> None:
    case = Case(case_id="wiki/en/4", line=1, prompt="Who?", target="Ida")
    draft = as_strict(wordings(case, 0, QuestionKind.EDIT)[0], Form())
    asked = draft.question(Arm(name="cosine", model="m"), 5)

    assert asked.question_id == "cosine/5/strict/edit/wiki/en/4/0"
    assert base_question_id(asked.question_id) == "base/0/strict/edit/wiki/en/4/0"


def test_a_question_that_nobody_can_judge_is_left_out_and_told() -> None:
    probes = (
        Probe(kind=ProbeKind.PERSONA, prompt="Mate, who is it?"),
        Probe(kind=ProbeKind.PERSONA, prompt="Pray, who is it?", targets=("Ida",)),
        Probe(kind=ProbeKind.SAME_SUBJECT, prompt="How old is it?"),
    )
    case = Case(case_id="a", line=1, prompt="Who?", target="Ida", probes=probes)

    assert [one.text for one in wordings(case, 0, QuestionKind.PERSONA)] == ["Pray, who is it?"]
    assert [one.text for one in wordings(case, 0, QuestionKind.SAME_SUBJECT)] == ["How old is it?"]
    assert unanswered(case) == [QuestionKind.PERSONA]


def test_protocols_are_told() -> None:
    made = (as_paper(wording(), Form(), words), as_strict(wording(), Form()), as_passage(wording(), Form()))

    assert [draft.protocol for draft in made] == [Protocol.PAPER, Protocol.STRICT, Protocol.PASSAGE]
