"""Repetition and entropy, by hand."""

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horen_vllm.evals.metrics.fluency import entropy, ngram_entropy, repetition


@pytest.mark.parametrize(
    ("items", "size", "expected"),
    [
        ([1, 2, 3, 4, 5, 6], 4, 0.0),
        # 1 2, 2 1, 1 2, 2 1, 1 2: two of five are new.
        ([1, 2, 1, 2, 1, 2], 2, 3 / 5),
        ([7] * 10, 4, 6 / 7),
        ([1, 2, 3], 4, 0.0),
        ([], 4, 0.0),
    ],
)
def test_repetition(items: list[int], size: int, expected: float) -> None:
    assert repetition(items, size) == pytest.approx(expected)


def test_entropy_in_bits() -> None:
    assert entropy([1, 2, 3, 4]) == 2.0
    assert entropy([1, 1, 2, 2, 2, 2, 3, 3]) == 1.5
    assert entropy([5, 5]) == entropy([]) == 0.0


def test_ngram_entropy_by_hand() -> None:
    # a b, b a, a b, b c: 1/2, 1/4, 1/4, which is 1.5 bits. a b a, b a b, a b c: log2(3).
    assert ngram_entropy("a b a b c") == pytest.approx((2 / 3 * 1.5 + 4 / 3 * log2(3)) / 2)
    assert ngram_entropy("again again again again") == ngram_entropy("one") == ngram_entropy("") == 0.0


@given(st.lists(st.integers(0, 3), max_size=30))
def test_bounds(items: list[int]) -> None:
    assert 0.0 <= repetition(items) < 1.0
    assert -1e-12 <= entropy(items) <= 2.0 + 1e-12
    assert repetition(items + items) >= repetition(items)
