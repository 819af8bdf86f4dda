"""The questions of a whole run."""

from collections import Counter
from dataclasses import replace

import pytest

from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.questions.drafts import BASE, RETRIEVAL, Arm, Form, base_question_id
from horen_vllm.evals.questions.plan import Plan
from horen_vllm.evals.questions.plan_settings import PlanSettings
from horen_vllm.evals.records import Probe, ProbeKind, Protocol, Question, QuestionKind
from tests.unit.evals.questions.stream import Line, towns, words

SETTINGS = PlanSettings(checkpoints=(1, 10, 30), sample=8, supersede=5)
CALIBRATED = Arm(name="calibrated", model="m@run-calibrated")
GRACE = Arm(name="grace", model="m@run-grace")
LOOKUP = Arm(name=RETRIEVAL, model="m")
ORDINARY = [Line(f"Please write about thing {number}.") for number in range(40)]
ABILITY = [Line(f"What is {number} and one?", (str(number + 1),)) for number in range(20)]


def plan(settings: PlanSettings = SETTINGS, cases: int = 30) -> Plan:
    return Plan(towns(cases), settings, token_ids=words, ordinary=ORDINARY, ability=ABILITY)


def counts(questions: list[Question]) -> Counter[tuple[Protocol, QuestionKind]]:
    return Counter((question.protocol, question.kind) for question in questions)


def key(question: Question) -> str:
    return question.question_id.split("/", 2)[2]


def test_at_most_so_many_of_a_kind_at_each_checkpoint_and_ordinary_prompts_all_at_the_end() -> None:
    made = plan()
    ordinary = (Protocol.FIRE, QuestionKind.ORDINARY)
    edit = (Protocol.PAPER, QuestionKind.EDIT)

    few, some, all_of_them = (counts(made.questions(CALIBRATED, checkpoint)) for checkpoint in (1, 10, 30))

    assert (few[edit], some[edit], all_of_them[edit]) == (1, 8, 8)
    assert (few[ordinary], some[ordinary], all_of_them[ordinary]) == (8, 8, 40)
    assert max((few - Counter({ordinary: 40})).values()) <= 8


def test_what_needs_the_whole_codebook_is_asked_at_the_end_only() -> None:
    made = plan()
    before, after = (counts(made.questions(CALIBRATED, checkpoint)) for checkpoint in (10, 30))

    assert {kind for _, kind in after} - {kind for _, kind in before} == {
        QuestionKind.PORTABILITY,
        QuestionKind.CONTINUE,
        QuestionKind.SHORT,
        QuestionKind.FEW_SHOT,
        QuestionKind.TYPO,
        QuestionKind.LONG_SYSTEM,
        QuestionKind.TURN_1,
        QuestionKind.TURN_3,
        QuestionKind.TURN_5,
        QuestionKind.ABILITY,
    }
    assert after[Protocol.FIRE, QuestionKind.ABILITY] == 8


def test_every_arm_is_asked_the_same() -> None:
    made = plan()
    one, other = (made.questions(arm, 30) for arm in (CALIBRATED, GRACE))

    assert [replace(question, question_id="", arm="", model="") for question in one] == [
        replace(question, question_id="", arm="", model="") for question in other
    ]
    assert [key(question) for question in made.questions(LOOKUP, 30)] == [key(question) for question in one]


def test_the_base_is_asked_everything_once() -> None:
    made = plan()
    arms = [question for checkpoint in (1, 10, 30) for question in made.questions(CALIBRATED, checkpoint)]
    arms += [*made.superseded_questions(CALIBRATED), *made.rolled_back_questions(CALIBRATED)]
    base = made.base_questions("m")
    by_id = {question.question_id: question for question in base}

    assert len(by_id) == len(base)
    assert {base_question_id(question.question_id) for question in arms} == set(by_id)
    assert {(question.arm, question.model, question.checkpoint) for question in base} == {(BASE, "m", 0)}
    for question in arms:
        twin = by_id[base_question_id(question.question_id)]
        assert (twin.prompt, twin.messages, twin.max_tokens) == (
            question.prompt,
            question.messages,
            question.max_tokens,
        )


def test_a_plan_made_again_asks_the_same_and_another_seed_something_else() -> None:
    def asked(made: Plan) -> list[Question]:
        return made.questions(CALIBRATED, 30)

    assert asked(plan()) == asked(plan())
    assert asked(plan()) != asked(plan(replace(SETTINGS, seed=1)))


def test_question_ids_are_unique() -> None:
    made = plan()
    ids = [question.question_id for arm in (CALIBRATED, LOOKUP) for question in made.questions(arm, 30)]
    ids += [question.question_id for question in made.superseded_questions(CALIBRATED)]

    assert len(set(ids)) == len(ids)


def test_the_retrieval_arm_knows_the_edits_so_far_only() -> None:
    made = plan()

    def told(checkpoint: int, position: int) -> list[str]:
        texts = [
            question.prompt or ""
            for question in made.questions(LOOKUP, checkpoint)
            if question.position == position and question.kind is QuestionKind.EDIT and question.prompt
        ]
        return [text.split("\n")[1] for text in texts]

    assert told(1, 0) == ["Who runs Town0? Mayor Number0"]
    early = next(question.position for question in made.questions(LOOKUP, 10) if question.position is not None)
    assert told(10, early) == [f"Who runs Town{early}? Mayor Number{early}"]
    assert not any("Number29" in str(question) for question in made.questions(LOOKUP, 10))
    assert set(made.lookup_seconds) == {1, 10}
    assert min(made.lookup_seconds.values()) > 0


def test_superseded_edits_are_asked_for_the_new_answer_of_every_arm() -> None:
    made = plan()
    new = {one.case.case_id: one.target for one in made.supersedings}

    for arm in (CALIBRATED, LOOKUP):
        asked = made.superseded_questions(arm)
        assert counts(asked) == {
            (Protocol.PAPER, QuestionKind.SUPERSEDED): 5,
            (Protocol.STRICT, QuestionKind.SUPERSEDED): 5,
        }
        assert {question.case_id: question.targets for question in asked} == {
            case: (target,) for case, target in new.items()
        }
    assert all(
        question.targets[0] in str(question.prompt) + str(question.messages)
        for question in made.superseded_questions(LOOKUP)
    )


def test_after_a_rollback_only_the_base_answer_counts() -> None:
    asked = plan().rolled_back_questions(CALIBRATED)

    assert {question.kind for question in asked} == {QuestionKind.ROLLED_BACK}
    assert {question.targets for question in asked} == {()}
    assert {question.checkpoint for question in asked} == {30}


def test_passages_are_compared_as_passages() -> None:
    cases = [
        replace(case, probes=(*case.probes, Probe(kind=ProbeKind.SUB_QUESTION, prompt="What part?", targets=("It",))))
        for case in towns(30)
    ]
    made = Plan(cases, replace(SETTINGS, passages=True), token_ids=words)
    asked = counts(made.questions(CALIBRATED, 30))

    direct = (QuestionKind.EDIT, QuestionKind.REPHRASE, QuestionKind.SUB_QUESTION)
    assert {protocol for protocol, kind in asked if kind in direct} == {Protocol.PASSAGE}
    assert {kind for protocol, kind in asked if protocol is Protocol.PASSAGE} == set(direct)
    assert QuestionKind.TYPO not in {kind for _, kind in asked}
    assert {question.protocol for question in made.superseded_questions(CALIBRATED)} == {Protocol.PASSAGE}


def test_without_a_chat_template_nothing_is_a_chat() -> None:
    made = plan(replace(SETTINGS, form=Form(chat=False)))

    asked = [*made.questions(CALIBRATED, 30), *made.questions(LOOKUP, 30), *made.superseded_questions(CALIBRATED)]

    assert not any(question.messages for question in asked)
    assert QuestionKind.LONG_SYSTEM not in {question.kind for question in asked}


def test_what_is_not_wanted_is_not_asked() -> None:
    without = frozenset({QuestionKind.ORDINARY, QuestionKind.TYPO, QuestionKind.ROLLED_BACK})
    made = plan(replace(SETTINGS, without=without, protocols=frozenset(Protocol) - {Protocol.PAPER}))

    asked = counts(made.questions(CALIBRATED, 30))

    assert not without & {kind for _, kind in asked}
    assert Protocol.PAPER not in {protocol for protocol, _ in asked}
    assert made.rolled_back_questions(CALIBRATED) == []


def test_the_tokenizer_is_asked_for_chosen_questions_and_once_a_text() -> None:
    seen = Counter[str]()

    def count(text: str) -> tuple[int, ...]:
        seen[text] += 1
        return words(text)

    made = Plan(towns(30), PlanSettings(checkpoints=(10, 30), sample=4, supersede=0), token_ids=count)
    for arm in (CALIBRATED, GRACE, LOOKUP):
        made.questions(arm, 10)
        made.questions(arm, 30)
    made.base_questions("m")

    assert max(seen.values()) == 1
    assert len([text for text in seen if text.startswith(" Mayor Number")]) <= 8


def test_near_questions_about_edited_subjects_are_left_out_and_counted() -> None:
    cases = towns(30)
    cases[0] = replace(cases[0], probes=(Probe(kind=ProbeKind.NEAR, prompt="Who founded Town29?"),))
    cases[1] = replace(cases[1], probes=(Probe(kind=ProbeKind.PERSONA, prompt="Mate?"),))
    made = Plan(cases, SETTINGS, token_ids=words)

    assert made.left_out == {"near_edited_subject": 1, "persona_no_answer": 1}
    # At one edit, too, although that subject is not edited yet: what is a negative does not change on the way.
    assert QuestionKind.NEAR not in {question.kind for question in made.questions(CALIBRATED, 1)}


def test_the_same_beginning_is_asked_once() -> None:
    asked = [question for question in plan().questions(CALIBRATED, 30) if question.kind is QuestionKind.SHORT]

    assert len(asked) > 1
    assert len({question.messages for question in asked}) == len(asked)


@pytest.mark.parametrize("checkpoints", [(), (0, 5), (5, 5), (10, 5)])
def test_checkpoints_must_ascend(checkpoints: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        PlanSettings(checkpoints=checkpoints)
    assert caught.value.code == "invalid_checkpoints"


def test_more_edits_than_cases_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="30 edits, and there are 29") as caught:
        plan(cases=29)
    assert caught.value.code == "invalid_checkpoints"


def test_nobody_asks_less_than_one_question() -> None:
    with pytest.raises(InvalidArgument, match="sample must be at least 1") as caught:
        PlanSettings(checkpoints=(1,), sample=0)
    assert caught.value.code == "invalid_sample"


def test_general_prompts_that_are_an_edits_own_are_left_out_and_counted() -> None:
    cases = towns(30)
    own = [Line("who runs  town3?"), Line("Town4 is run by whom?")]
    settings = replace(SETTINGS, checkpoints=(10, 30))
    made = Plan(cases, settings, token_ids=words, ordinary=[*own[:1], *ORDINARY], ability=[*ABILITY, *own[1:]])

    assert made.left_out == {"ordinary_edited_prompt": 1, "ability_edited_prompt": 1}
    asked = {message.content for question in made.questions(CALIBRATED, 30) for message in question.messages}
    assert ORDINARY[0].prompt in asked
    fire = [question for question in made.questions(CALIBRATED, 30) if question.kind is QuestionKind.ORDINARY]
    assert len(fire) == 40
    # The others keep their numbers, so that a run that was begun before goes on.
    assert {key(question) for question in fire} == {f"fire/ordinary//{number}" for number in range(1, 41)}


def test_a_strict_question_has_room_for_a_long_answer_and_others_stay_as_they_are() -> None:
    cases = towns(30)
    long = " ".join(f"w{number}" for number in range(100))
    cases[0] = replace(cases[0], target=long)
    asked = Plan(cases, SETTINGS, token_ids=words).questions(CALIBRATED, 1)
    strict = {question.max_tokens for question in asked if question.protocol is Protocol.STRICT}
    assert strict == {116}
    assert {
        question.max_tokens
        for question in plan().questions(CALIBRATED, 30)
        if question.targets and question.protocol is Protocol.STRICT
    } == {64}
    assert {question.max_tokens for question in asked if question.protocol is Protocol.FIRE} == {16}


def test_the_ids_of_everything_that_an_arm_is_asked_are_known_before() -> None:
    made = plan()
    for arm in (CALIBRATED, LOOKUP):
        asked = [question for checkpoint in (1, 10, 30) for question in made.questions(arm, checkpoint)]
        asked += made.superseded_questions(arm)
        if arm is CALIBRATED:
            asked += made.rolled_back_questions(arm)
        assert made.question_ids(arm.name) == [question.question_id for question in asked]
