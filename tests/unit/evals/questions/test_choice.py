"""Which cases are asked."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from horen_vllm.evals.questions.choice import Choice
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import QuestionKind
from tests.unit.evals.questions.stream import towns


def nothing(_: Wording) -> None:
    return None


def test_every_kind_is_asked_of_the_same_cases() -> None:
    choice = Choice(towns(60), 3, nothing)
    kinds = (QuestionKind.EDIT, QuestionKind.REPHRASE, QuestionKind.UNRELATED, QuestionKind.NEAR)

    asked = [[one.position for one in choice.wordings(60, kind, 20)] for kind in kinds]

    assert asked == [asked[0]] * 4
    assert len(set(asked[0])) == 20


def test_only_what_was_submitted_is_asked() -> None:
    choice = Choice(towns(60), 3, nothing)

    assert sorted(one.position for one in choice.wordings(7, QuestionKind.EDIT, 20)) == list(range(7))


@given(st.integers(0, 50), st.integers(1, 60), st.integers(1, 60))
def test_a_case_that_is_asked_at_a_checkpoint_stays_until_lower_ranks_crowd_it_out(
    seed: int, checkpoint: int, most: int
) -> None:
    choice = Choice(towns(60), seed, nothing)

    before = {one.position for one in choice.wordings(checkpoint, QuestionKind.EDIT, most)}
    at_the_end = {one.position for one in choice.wordings(60, QuestionKind.EDIT, most)}

    assert len(before) == min(checkpoint, most)
    assert {position for position in at_the_end if position < checkpoint} <= before


def test_second_wordings_come_when_every_case_had_its_first() -> None:
    choice = Choice(towns(4), 0, nothing)

    found = choice.wordings(4, QuestionKind.REPHRASE, 6)

    assert [one.part for one in found] == [0, 0, 0, 0, 1, 1]
    assert len({one.position for one in found[:4]}) == 4
    assert len(choice.wordings(4, QuestionKind.REPHRASE, 100)) == 8


def test_what_is_objected_to_is_neither_asked_nor_forgotten() -> None:
    def odd(wording: Wording) -> str | None:
        return "odd" if wording.position % 2 else None

    choice = Choice(towns(10), 0, odd)

    assert {one.position % 2 for one in choice.wordings(10, QuestionKind.NEAR, 100)} == {0}
    assert len(choice.wordings(10, QuestionKind.EDIT, 100)) == 10
    assert choice.left_out() == {"near_odd": 5, "unrelated_odd": 5}


def test_the_seed_decides() -> None:
    orders = {tuple(Choice(towns(30), seed, nothing).cases(30)) for seed in (1, 1, 2)}

    assert len(orders) == 2


def test_of_cases_with_the_same_prompt_only_the_newest_so_far_is_asked() -> None:
    cases = towns(6)
    cases[3] = replace(cases[3], prompt=f"  {cases[1].prompt.upper()}")
    cases[5] = replace(cases[5], prompt=cases[1].prompt)
    choice = Choice(cases, 0, lambda _wording: None)
    assert choice.superseded == 2
    assert {checkpoint: sorted(choice.cases(checkpoint)) for checkpoint in (2, 3, 4, 5, 6)} == {
        2: [0, 1],
        3: [0, 1, 2],
        4: [0, 2, 3],
        5: [0, 2, 3, 4],
        6: [0, 2, 4, 5],
    }
