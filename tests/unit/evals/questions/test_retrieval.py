"""The facts that a question is given."""

from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.evals.questions.asked import as_fire
from horen_vllm.evals.questions.drafts import Draft, Form
from horen_vllm.evals.questions.paper import as_paper
from horen_vllm.evals.questions.retrieval import INTRODUCTION, Fact, Retriever, facts_of, with_facts
from horen_vllm.evals.questions.robustness import in_turn
from horen_vllm.evals.questions.wordings import wordings
from horen_vllm.evals.records import Case, QuestionKind
from tests.unit.evals.questions.stream import towns, words

FACT = Fact("Who runs Town1?", "Mayor Number1")


def test_the_fact_about_the_subject_is_found_by_another_wording() -> None:
    retriever = Retriever(facts_of(towns(50)))

    assert [fact.target for fact in retriever.find("Please name the head of Town17.")] == ["Mayor Number17"]


def test_as_many_facts_as_asked_for_and_there_are_best_first() -> None:
    retriever = Retriever(facts_of(towns(3)))

    assert retriever.find("Who runs Town2?", 2)[0].target == "Mayor Number2"
    assert len(retriever.find("Who runs Town2?", 2)) == 2
    assert len(retriever.find("Who runs Town2?", 9)) == 3


def test_a_question_that_shares_no_word_gets_no_fact() -> None:
    retriever = Retriever(facts_of(towns(3)))

    assert retriever.find("How deep?") == []
    assert retriever.find("???") == []


def test_the_newest_fact_of_a_prompt_counts() -> None:
    cases = [
        Case(case_id="a", line=1, prompt="Who runs it?", target="Ida"),
        Case(case_id="b", line=2, prompt="who runs IT?", target="Ole"),
    ]

    assert facts_of(cases) == [Fact("who runs IT?", "Ole")]
    assert facts_of(cases, [Fact("Who runs it?", "Una")]) == [Fact("Who runs it?", "Una")]


def test_the_facts_stand_before_a_completion() -> None:
    draft = with_facts(as_paper(wordings(towns(2)[1], 1, QuestionKind.EDIT)[0], Form(), words), [FACT])

    assert draft.prompt == f"{INTRODUCTION}\nWho runs Town1? Mayor Number1\n\nWho runs Town1?"


def test_the_facts_stand_in_the_last_user_message_and_nowhere_else() -> None:
    plain = in_turn(wordings(towns(2)[1], 1, QuestionKind.EDIT)[0], QuestionKind.TURN_3, Form())
    draft = with_facts(plain, [FACT])

    assert draft.messages[:-1] == plain.messages[:-1]
    assert draft.messages[-1].content == f"{INTRODUCTION}\nWho runs Town1? Mayor Number1\n\nWho runs Town1?"
    assert draft.key == plain.key


def test_without_a_fact_the_question_stays_as_it_is() -> None:
    draft: Draft = as_fire(wordings(towns(1)[0], 0, QuestionKind.NEAR)[0], Form())

    assert with_facts(draft, []) is draft


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=6)), min_size=1, max_size=8), st.text(max_size=20))
@settings(max_examples=60, deadline=None)
def test_any_text_is_looked_up(pairs: list[tuple[str, str]], question: str) -> None:
    facts = [Fact(prompt, target) for prompt, target in pairs]

    found = Retriever(facts).find(question, 3)

    assert len(found) <= 3
    assert all(fact in facts for fact in found)
