"""Text against targets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horen_vllm.evals.metrics.matching import contains, exact, normalised, same_normalised, word_f1

TEXT = st.text(max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The Eiffel  Tower. ", "eiffel tower"),
        ("U.S.A.", "usa"),
        ("«Zürich» — a city", "zürich city"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("ﬁve", "five"),  # a ligature
        ("An\u00a0apple", "apple"),  # a no-break space
        ("Theodore", "theodore"),
        # Of nothing but articles and punctuation, so it stays.
        ("The", "the"),
        ("A.", "a."),
        ("?!", "?!"),
        ("", ""),
    ],
)
def test_normalised(text: str, expected: str) -> None:
    assert normalised(text) == expected


@given(TEXT)
def test_only_white_space_becomes_the_empty_answer(text: str) -> None:
    assert (normalised(text) == "") == (not text.strip())


def test_exact_leaves_out_white_space_around_and_nothing_else() -> None:
    assert exact(" Paris\n", ["Rome", "Paris "])
    assert not exact("paris", ["Paris"])
    assert not exact("Paris.", ["Paris"])
    assert not exact("", [])


def test_same_normalised_takes_any_target_but_not_a_part() -> None:
    assert same_normalised("the PARIS.", ["Rome", "Paris"])
    assert not same_normalised("Paris, France", ["Paris"])
    assert not same_normalised("", ["The"])


@pytest.mark.parametrize(
    ("answer", "targets", "expected"),
    [
        ("It is Paris, of course.", ["Paris"], True),
        ("It is New York City.", ["the New York"], True),
        # Whole words only.
        ("Parisian", ["Paris"], False),
        ("It is 10000.", ["100"], False),
        ("Rome", ["Paris", "Rome"], True),
        # The other way round is no match.
        ("Paris", ["Paris in France"], False),
        ("anything", [""], False),
        ("anything", [], False),
    ],
)
def test_contains(answer: str, targets: list[str], expected: bool) -> None:
    assert contains(answer, targets) is expected


@pytest.mark.parametrize(
    ("answer", "targets", "expected"),
    [
        # Two words in common, of three and of four: P 2/3, R 2/4.
        ("old Paris France", ["Paris in north France"], 4 / 7),
        # A word counts as often as both have it.
        ("Paris Paris Paris", ["Paris"], 1 / 2),
        ("Rome", ["Paris", "the Rome"], 1.0),
        ("Rome", ["Paris"], 0.0),
        ("", ["Paris"], 0.0),
        ("Rome", [], 0.0),
    ],
)
def test_word_f1(answer: str, targets: list[str], expected: float) -> None:
    assert word_f1(answer, targets) == pytest.approx(expected)


@given(TEXT, TEXT.filter(str.strip))
def test_each_measure_is_weaker_than_the_one_before(answer: str, target: str) -> None:
    assert not exact(answer, [target]) or same_normalised(answer, [target])
    assert not same_normalised(answer, [target]) or contains(answer, [target])
    assert not same_normalised(answer, [target]) or word_f1(answer, [target]) == 1.0
    assert 0.0 <= word_f1(answer, [target]) <= 1.0
