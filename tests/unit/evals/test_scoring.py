"""Which metrics an answer gets, by protocol and kind, and what they are."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horen_vllm.evals.records import Answer, Message, Protocol, Question, QuestionKind
from horen_vllm.evals.scoring import MUST_KEEP, score

PAGE = Path(__file__).resolve().parents[3] / "docs/reference/eval-metrics.md"
MATCHES = {"exact", "normalised", "contains", "word_f1"}
TEXT = st.text(max_size=12)
IDS = st.lists(st.integers(0, 9), max_size=6).map(tuple)
ANSWERS = st.builds(
    Answer,
    text=TEXT,
    token_ids=IDS,
    prompt_token_ids=IDS,
    finish_reason=st.sampled_from(["stop", "length"]),
    edit_id=st.sampled_from([None, "e1", "e2"]),
    score=st.just(0.9),
    seconds=st.just(0.1),
)


def question(
    protocol: Protocol, kind: QuestionKind = QuestionKind.EDIT, *targets: str, max_tokens: int = 2
) -> Question:
    return Question(
        question_id="q",
        arm="calibrated",
        model="m@c",
        checkpoint=10,
        protocol=protocol,
        kind=kind,
        messages=(Message(role="user", content="Where?"),),
        max_tokens=max_tokens,
        targets=targets,
    )


def answer(text: str = " Paris", token_ids: tuple[int, ...] = (4, 5), edit_id: str | None = None) -> Answer:
    return Answer(
        text=text,
        token_ids=token_ids,
        prompt_token_ids=(1, 2, 3),
        finish_reason="length",
        edit_id=edit_id,
        score=None,
        seconds=0.1,
    )


def test_the_paper_judges_tokens_and_texts_side_by_side() -> None:
    found = score(
        question(Protocol.PAPER, QuestionKind.EDIT, "Paris X", "Paris"),
        answer(token_ids=(4, 5), edit_id="e1"),
        target_ids=(4, 9),
        expected_edit="e1",
    )
    assert found == {
        "fired": 1.0,
        "right_edit": 1.0,
        "token_accuracy": 0.5,
        "all_tokens": 0.0,
        "exact": 1.0,
        "normalised": 1.0,
        "contains": 1.0,
        "word_f1": 1.0,
    }


def test_another_edit_than_expected_is_not_the_right_one() -> None:
    asked = question(Protocol.PAPER, QuestionKind.REPHRASE, "Paris")
    for edit_id in ("e2", None):
        found = score(asked, answer(edit_id=edit_id), target_ids=(4, 5), expected_edit="e1")
        assert (found["right_edit"], found["all_tokens"]) == (0.0, 1.0)
    assert "right_edit" not in score(asked, answer(edit_id="e1"), target_ids=(4, 5))


def test_locality_of_the_paper_beside_the_stricter_one() -> None:
    """Both answers end after one of three tokens, so two of the paper's three are the prompt's."""
    asked = question(Protocol.PAPER, QuestionKind.UNRELATED, "in the sea", max_tokens=3)
    found = score(asked, answer("a", (7,)), target_ids=(5, 5, 5), base=answer("b", (8,)))
    assert found["locality_paper"] == pytest.approx(2 / 3)
    assert (found["locality"], found["unchanged"]) == (0.0, 0.0)
    # What is true of the world does not enter, only what the base model said.
    assert score(asked, answer(), target_ids=(5, 5, 5), base=answer())["locality_paper"] == 1.0


def test_without_a_true_answer_locality_compares_what_was_asked_for() -> None:
    asked = question(Protocol.PAPER, QuestionKind.NEAR, max_tokens=2)
    found = score(asked, answer(token_ids=(4, 6)), base=answer(token_ids=(4, 5)))
    assert found == {"fired": 0.0, "unchanged": 0.0, "locality": 0.5, "locality_paper": 0.5}


@pytest.mark.parametrize("kind", QuestionKind)
def test_locality_is_of_questions_whose_answer_should_stay(kind: QuestionKind) -> None:
    for protocol in (Protocol.PAPER, Protocol.STRICT, Protocol.FIRE):
        found = score(question(protocol, kind), answer(), base=answer())
        assert found["unchanged"] == 1.0
        assert ("locality" in found) == (kind in MUST_KEEP)
        assert "locality" not in score(question(protocol, kind), answer())


def test_an_answer_with_the_same_words_but_more_tokens_is_changed() -> None:
    found = score(question(Protocol.FIRE, QuestionKind.ORDINARY), answer(token_ids=(4, 5, 6)), base=answer())
    assert found["unchanged"] == 0.0
    assert found["locality"] == pytest.approx(2 / 3)
    assert "locality_paper" not in found


def test_the_strict_protocol_says_whether_the_model_stopped() -> None:
    asked = question(Protocol.STRICT, QuestionKind.EDIT, "Paris")
    stopped = replace(answer("It is Paris."), finish_reason="stop")
    assert score(asked, stopped) == {
        "fired": 0.0,
        "stopped": 1.0,
        "exact": 0.0,
        "normalised": 0.0,
        "contains": 1.0,
        "word_f1": pytest.approx(2 / 4),
    }
    assert score(asked, answer("It is Paris."))["stopped"] == 0.0


def test_passages_take_the_best_reference_and_no_semantic_score_without_an_encoder() -> None:
    asked = question(Protocol.PASSAGE, QuestionKind.EDIT, "dogs bark loudly", "the cat sat on the mat")
    said = answer("the cat sat on the mat")
    found = score(asked, said)
    assert {found[name] for name in ("rouge1", "rouge2", "rougeL", "unke_rouge1", "unke_rougeL")} == {1.0}
    assert found["bleu"] == found["unke_bleu"] == pytest.approx(1.0)
    assert "semantic" not in found
    assert score(asked, said, similarity=lambda text, reference: len(reference) / 100)["semantic"] == 0.22


def test_continuations_are_judged_by_repetition_over_tokens_and_entropy_over_words() -> None:
    asked = replace(question(Protocol.CONTINUATION, QuestionKind.CONTINUE, "Paris", max_tokens=10), min_tokens=10)
    found = score(asked, answer("Paris Paris Paris", (7,) * 10), base=answer("Paris", (7,)))
    assert found == {
        "fired": 0.0,
        "unchanged": 0.0,
        "long_enough": 1.0,
        "repetition": pytest.approx(6 / 7),
        "ngram_entropy": 0.0,
        "contains": 1.0,
    }


@pytest.mark.parametrize(
    ("least", "length", "enough"), [(200, 199, 0.0), (200, 200, 1.0), (None, 49, 0.0), (None, 50, 1.0)]
)
def test_a_continuation_that_ended_early_has_no_repetition(least: int | None, length: int, enough: float) -> None:
    asked = replace(question(Protocol.CONTINUATION, QuestionKind.CONTINUE, max_tokens=200), min_tokens=least)
    found = score(asked, answer("and so on", tuple(range(length))))
    assert found["long_enough"] == enough
    assert ({"repetition", "ngram_entropy"} <= found.keys()) == bool(enough)


@pytest.mark.parametrize("protocol", Protocol)
def test_a_question_without_target_and_base_still_says_whether_an_edit_fired(protocol: Protocol) -> None:
    found = score(question(protocol, QuestionKind.ORDINARY), answer(edit_id="e1"))
    assert found["fired"] == 1.0
    assert not MATCHES & found.keys()


@given(st.sampled_from(Protocol), st.sampled_from(QuestionKind), st.lists(TEXT, max_size=2), IDS, ANSWERS, ANSWERS, IDS)
def test_every_value_is_a_share_of_a_documented_name(
    protocol: Protocol,
    kind: QuestionKind,
    targets: list[str],
    target_ids: tuple[int, ...],
    given_answer: Answer,
    base: Answer,
    more: tuple[int, ...],
) -> None:
    """Whatever a model says: a number comes out, and the same one again."""
    asked = replace(question(protocol, kind, *targets, max_tokens=1 + len(more)), min_tokens=len(more) or None)
    found = score(asked, given_answer, target_ids=target_ids, base=base, expected_edit="e1")
    assert found == score(asked, given_answer, target_ids=target_ids, base=base, expected_edit="e1")
    for name, value in found.items():
        assert isinstance(value, float)
        assert 0.0 <= value <= (1.0 + 1e-9 if name != "ngram_entropy" else 100.0), name
    assert found.keys() <= documented()


def test_every_documented_name_is_given_by_some_protocol() -> None:
    given_names: set[str] = set()
    for protocol in Protocol:
        for kind in QuestionKind:
            asked = replace(question(protocol, kind, "Paris"), min_tokens=2)
            found = score(
                asked, answer(), target_ids=(4,), base=answer(), expected_edit="e", similarity=lambda _a, _b: 1.0
            )
            given_names |= found.keys()
    assert given_names == documented()


def documented() -> set[str]:
    """Return the names in the first column of the page's tables of metrics."""
    named = re.findall(r"^\| (`[a-zA-Z0-9_`, ]+`) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name for cell in named for name in re.findall(r"`([a-zA-Z0-9_]+)`", cell)}
