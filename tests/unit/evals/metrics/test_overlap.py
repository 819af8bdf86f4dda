"""ROUGE and BLEU: values by hand, and UnKE's against the packages that its evaluation calls."""

import sys
import warnings
from math import exp, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import sentence_bleu
from rouge import Rouge as PublishedRouge

from horen_vllm.errors import FailedPrecondition
from horen_vllm.evals.metrics.overlap import bleu, rouge
from horen_vllm.evals.metrics.packages import package, words
from horen_vllm.evals.metrics.unke import unke_bleu, unke_rouge

REFERENCE = "The cat sat on the mat. It slept all day."
# Few words, so that sequences have much in common and ties between them come up.
PASSAGE = st.lists(st.sampled_from(["a", "b", "c", "D", "d,", ".", "e."]), min_size=1, max_size=14).map(" ".join)


def test_rouge_by_hand() -> None:
    # Reference: the cat sat on the mat it slept all day (10 words). Answer: the cat slept on the mat (6 words).
    found = rouge("the cat slept on the MAT", REFERENCE)
    # In common: the (2), cat, on, mat, slept.
    assert found.rouge1 == pytest.approx(2 * 6 / 16)
    # the cat, on the, the mat; of 9 and of 5.
    assert found.rouge2 == pytest.approx(2 * 3 / 14)
    # the cat on the mat.
    assert found.rouge_l == pytest.approx(2 * 5 / 16)


def test_rouge_of_equal_different_and_empty_texts() -> None:
    assert rouge(REFERENCE, REFERENCE).rouge_l == 1.0
    assert rouge("dogs bark", REFERENCE) == rouge("", REFERENCE) == rouge("", "")
    assert rouge("", REFERENCE).rouge1 == 0.0


def test_bleu_by_hand() -> None:
    # 5 words of 6; 3 bigrams of 5, 2 trigrams of 4, 1 four-gram of 3; 6 words against 7.
    found = bleu("the cat sat on a mat", "the cat sat on the mat again")
    assert found == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25 * exp(1 - 7 / 6))


def test_bleu_smooths_the_orders_without_a_match() -> None:
    # One word of four; no bigram of 3, trigram of 2, four-gram of 1, counted as 1/2, 1/4 and 1/8 of a match.
    found = bleu("cat x y z", "a b cat c")
    assert found == pytest.approx((1 / 4 * (1 / 2) / 3 * (1 / 4) / 2 * (1 / 8) / 1) ** 0.25)


def test_bleu_of_a_short_answer_counts_the_orders_that_it_has() -> None:
    assert bleu("of Paris", "of Paris") == pytest.approx(1.0)
    assert bleu("in Paris", "of Paris") == pytest.approx(sqrt(1 / 2 * (1 / 2) / 1))
    assert bleu("", "of Paris") == bleu("Rome", "of Paris") == 0.0


def test_unke_rouge_by_hand() -> None:
    found = unke_rouge("The cat slept. All day it sat on the mat", REFERENCE)
    # Distinct words of the reference: The cat sat on the mat It slept all day. Not in the answer: It, all.
    assert found.rouge1 == pytest.approx(8 / 10)
    # Its 9 pairs run across the full stop. In the answer: The cat, sat on, on the, the mat.
    assert found.rouge2 == pytest.approx(4 / 9)
    # The first sentence has "The cat" with the first and "sat on the mat" with the second; the other one has "slept"
    # with the first and "day" with the second.
    assert found.rouge_l == pytest.approx(8 / 10)


@given(PASSAGE, PASSAGE)
@settings(max_examples=300)
def test_unke_rouge_is_what_the_published_package_gives(answer: str, reference: str) -> None:
    try:
        published = PublishedRouge().get_scores(answer, reference)[0]
    except (ValueError, ZeroDivisionError):
        # That package refuses texts of full stops alone.
        return
    found = unke_rouge(answer, reference)
    assert [found.rouge1, found.rouge2, found.rouge_l] == [
        published[name]["r"] for name in ("rouge-1", "rouge-2", "rouge-l")
    ]


def test_unke_rouge_of_a_longer_answer_is_never_less() -> None:
    """Recall alone: whatever stands after the passage costs nothing."""
    assert unke_rouge(REFERENCE + " And then some more.", REFERENCE) == unke_rouge(REFERENCE, REFERENCE)
    assert rouge(REFERENCE + " And then some more.", REFERENCE).rouge1 < 1.0


@pytest.mark.parametrize(("answer", "reference"), [("", REFERENCE), ("...", REFERENCE), ("a", "")])
def test_unke_rouge_is_0_where_the_published_package_fails(answer: str, reference: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        PublishedRouge().get_scores(answer, reference)
    assert unke_rouge(answer, reference).rouge1 == 0.0


def test_unke_rouge_of_a_long_sentence_needs_no_deep_recursion() -> None:
    passage = " ".join(f"word{number}" for number in range(sys.getrecursionlimit() + 1))
    assert unke_rouge(passage, passage).rouge_l == 1.0


def test_unke_bleu_is_over_characters() -> None:
    # 8 characters, 1 wrong at the end: 7 of 8, 6 of 7, 5 of 6, 4 of 5.
    assert unke_bleu("abcdefgx", "abcdefgh") == pytest.approx((7 / 8 * 6 / 7 * 5 / 6 * 4 / 5) ** 0.25)
    assert unke_bleu("a cat sat", REFERENCE) == sentence_bleu([REFERENCE], "a cat sat")


def test_unke_bleu_without_a_match_of_some_order_is_next_to_nothing_and_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = unke_bleu("ab xy", "ab cd ef")
    with pytest.warns(UserWarning, match="overlaps"):
        assert found == sentence_bleu(["ab cd ef"], "ab xy")
    assert found < 1e-50


def test_words_need_no_downloaded_data() -> None:
    assert words("It's 5 o'clock, isn't it? Yes.") == [
        "It",
        "'s",
        "5",
        "o'clock",
        ",",
        "is",
        "n't",
        "it",
        "?",
        "Yes",
        ".",
    ]


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(FailedPrecondition, match=r"needs no_such_package: install horen-vllm\[eval\]") as refused:
        package("no_such_package.part")
    assert refused.value.code == "evaluation_package_missing"
