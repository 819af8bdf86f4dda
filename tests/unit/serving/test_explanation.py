"""What is said about one decision: reasons, margins, and which tokens are shown."""

from collections.abc import Sequence
from typing import Any

import pytest

from horen_vllm.serving.explanation import CONTEXT, MAX_TOKENS, explanation, shown_positions
from tests.unit.serving.doubles import public


def texts(ids: Sequence[int]) -> list[str]:
    return [f"t{token}" for token in ids]


def decided(*nearest: tuple[str, float], fired: str | None, threshold: float = 0.75, **more: Any) -> dict[str, Any]:
    score = dict(nearest).get(fired or "", nearest[0][1] if nearest else None)
    rows = [{"edit_id": edit_id, "score": score} for edit_id, score in nearest]
    found = {"score": score, "threshold": threshold, "runner_up": None, "runner_up_score": None}
    return {**public(edit_id=fired), **found, "span": None, "window": [2, 4], "nearest": rows, **more}


def told(decision: dict[str, Any]) -> dict[str, Any]:
    return explanation(decision, [10, 11, 12, 13], texts)


def test_every_entry_says_why_it_fires_or_not() -> None:
    answer = told(decided(("a", 0.875), ("b", 0.8125), ("c", 0.75), ("d", 0.5), fired="a"))
    assert [(row["fires"], row["margin"], row["reason"]) for row in answer["nearest"]] == [
        (True, 0.125, "fires: best score 0.8750 > threshold 0.7500"),
        (False, 0.0625, "another entry scored higher: a with 0.8750"),
        (False, 0.0, "not above the threshold"),
        (False, -0.25, "below the threshold by 0.2500"),
    ]
    assert answer["decision"] == {
        "fired": True, "edit_id": "a", "score": 0.875, "runner_up": None, "runner_up_score": None
    }  # fmt: skip


def test_an_entry_that_stood_aside_says_why() -> None:
    decision = decided(("a", 0.5), fired="a", threshold=0.25, left_out=2)
    decision["nearest"] += [
        {"edit_id": "b", "score": 0.75, "blocked": "subject_absent"},
        {"edit_id": "c", "score": 0.75, "threshold": 0.5, "blocked": "left_out"},
        {"edit_id": "d", "score": 0.75, "threshold": 0.5, "outranked": True},
        {"edit_id": "e", "score": 0.25, "threshold": 0.5, "outranked": True},
    ]
    answer = told(decision)
    assert [(row["margin"], row["reason"]) for row in answer["nearest"][1:]] == [
        (0.5, "its subject does not occur in the query span"),
        (0.25, "the query span names more subjects than can be told apart, and its own comes after them"),
        (0.25, "an entry whose subject occurs comes first: a with 0.5000"),
        (-0.25, "below the threshold by 0.2500"),
    ]
    assert answer["decision"]["left_out"] == 2


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_of_equal_scores_only_the_one_that_was_decided_fires(order: tuple[str, str]) -> None:
    rows = {row["edit_id"]: row for row in told(decided(*((name, 0.875) for name in order), fired="b"))["nearest"]}
    assert (rows["b"]["fires"], rows["a"]["fires"]) == (True, False)
    assert rows["a"]["reason"] == "no better than b, which was submitted later"


def test_nothing_near_is_nothing_to_list() -> None:
    answer = told(decided(fired=None))
    assert (answer["nearest"], answer["decision"]["fired"], answer["decision"]["score"]) == ([], False, None)


def test_the_window_is_shown_token_by_token_with_its_place() -> None:
    answer = told(decided(fired=None, span=(1, 4)))
    assert answer["tokens"][1:3] == [
        {"position": 1, "id": 11, "text": "t11", "in_window": False},
        {"position": 2, "id": 12, "text": "t12", "in_window": True},
    ]
    assert (answer["query_span"], answer["query_window"], answer["prompt_tokens"]) == ([1, 4], [2, 4], 4)
    assert told(decided(fired=None))["query_span"] == [0, 4]


@pytest.mark.parametrize(
    ("window", "length", "first", "last", "count"),
    [
        ((2, 4), 4, 0, 3, 4),
        ((100, 110), 1000, 100 - CONTEXT, 109 + CONTEXT, 10 + 2 * CONTEXT),
        ((0, 5000), 5000, 0, 4999, MAX_TOKENS),
    ],
)
def test_a_long_prompt_is_shown_around_the_window_only(
    window: tuple[int, int], length: int, first: int, last: int, count: int
) -> None:
    positions = shown_positions(window, length)
    assert (positions[0], positions[-1], len(positions)) == (first, last, count)
    assert positions == sorted(set(positions))
