"""Edited questions in other surroundings and with other letters."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horen_vllm.evals.questions import robustness
from horen_vllm.evals.questions.drafts import Form, TokenIds
from horen_vllm.evals.questions.surroundings import EXAMPLES, SYSTEM_PROMPT
from horen_vllm.evals.questions.wordings import Wording, wordings
from horen_vllm.evals.records import Case, Protocol, QuestionKind
from tests.unit.evals.questions.stream import towns, words

FORM = Form()


def edit(text: str = "Who runs Town0?") -> Wording:
    case = Case(case_id="a", line=1, prompt=text, target="Ida")
    return wordings(case, 0, QuestionKind.EDIT)[0]


def letters(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def test_a_long_system_prompt_stands_before_the_question() -> None:
    draft = robustness.long_system(edit(), FORM)

    assert [message.role for message in draft.messages] == ["system", "user"]
    assert draft.messages[0].content == SYSTEM_PROMPT
    assert draft.asked == "Who runs Town0?"
    assert len(SYSTEM_PROMPT.split()) > 200
    assert "\n" not in SYSTEM_PROMPT


@pytest.mark.parametrize(
    ("kind", "turn"), [(QuestionKind.TURN_1, 1), (QuestionKind.TURN_3, 3), (QuestionKind.TURN_5, 5)]
)
def test_the_question_comes_at_its_turn_which_is_the_last(kind: QuestionKind, turn: int) -> None:
    draft = robustness.in_turn(edit(), kind, FORM)
    roles = [message.role for message in draft.messages]

    assert roles.count("user") == turn
    assert roles[-1] == "user"
    assert all(one != other for one, other in pairwise(roles))
    assert draft.messages[-1].content == "Who runs Town0?"
    assert not any("Town0" in message.content for message in draft.messages[:-1])


@pytest.mark.parametrize("chat", [True, False])
def test_examples_stand_before_the_question_in_the_same_text(chat: bool) -> None:
    draft = robustness.few_shot(edit(), Form(chat=chat))

    assert draft.asked.endswith("Q: Who runs Town0?\nA:")
    assert all(f"Q: {question}\nA: {answer}\n" in draft.asked for question, answer in EXAMPLES)
    assert (draft.prompt is None) == chat


def test_without_a_chat_template_what_needs_one_is_left_out() -> None:
    chat_only = set(robustness.ways(Form(), 0)) - set(robustness.ways(Form(chat=False), 0))

    assert chat_only == {
        QuestionKind.LONG_SYSTEM,
        QuestionKind.TURN_1,
        QuestionKind.TURN_3,
        QuestionKind.TURN_5,
    }


@given(st.text(max_size=60), st.integers(0, 1000))
def test_typing_errors_are_small_and_the_same_each_time(text: str, seed: int) -> None:
    spelt = robustness.misspell(text, seed)

    assert spelt == robustness.misspell(text, seed)
    errors = max(1, len(text.split()) // 6)
    assert abs(len(spelt) - len(text)) <= errors
    assert len(spelt.split()) == len(text.split())


@given(st.from_regex(r"([A-Za-z]{1,9} ){2,12}[a-z]{4,9}\?", fullmatch=True), st.integers(0, 99))
def test_a_text_with_a_long_word_always_gets_an_error_inside_of_words(text: str, seed: int) -> None:
    spelt = robustness.misspell(text, seed)

    assert spelt != text
    for before, after in zip(text.split(), spelt.split(), strict=True):
        assert (before[0], before.rstrip("?")[-1]) == (after[0], after.rstrip("?")[-1])
        assert before == after or len(before.rstrip("?")) >= 4


def test_seeds_differ() -> None:
    text = "Which governor founded the observatory of Northumberland?"

    assert len({robustness.misspell(text, seed) for seed in range(8)}) > 1


def test_a_question_of_short_words_gets_no_errors_and_is_not_asked() -> None:
    assert robustness.typo(edit("Who is he?"), FORM, 0) is None
    draft = robustness.typo(edit(), FORM, 0)
    assert draft is not None
    assert draft.asked != "Who runs Town0?"
    assert draft.targets == ("Ida",)


@pytest.mark.parametrize("tokenizer", [words, letters])
def test_a_short_prompt_is_a_beginning_of_one_to_three_tokens(tokenizer: TokenIds) -> None:
    cases = towns(40)
    drafts = [
        robustness.short(wordings(case, number, QuestionKind.EDIT)[0], FORM, tokenizer, 0)
        for number, case in enumerate(cases)
    ]

    assert {len(tokenizer(draft.asked)) for draft in drafts} <= {1, 2, 3}
    assert len({draft.asked for draft in drafts}) > 1
    assert all(case.prompt.startswith(draft.asked) for case, draft in zip(cases, drafts, strict=True))
    assert {(draft.protocol, draft.targets) for draft in drafts} == {(Protocol.FIRE, ())}
