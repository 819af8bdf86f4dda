"""Request tags: their way through vLLM, the query window inside a span, and that reading one never fails."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.plugin.tag import (
    CODEBOOK_KEY,
    EXPLAIN_KEY,
    RATIO_KEY,
    RESERVED_PREFIX,
    SPAN_KEY,
    RequestTag,
    tag_of,
)

BOOK = "tenants/default/codebooks/a"
PLAIN = {CODEBOOK_KEY: BOOK, RATIO_KEY: 0.6}


def read(extra: Any) -> RequestTag | None:
    return tag_of(SimpleNamespace(extra_args=extra))


@pytest.mark.parametrize("tag", [RequestTag(BOOK, 0.5), RequestTag(BOOK, 1.0, (3, 9)), RequestTag(BOOK, 1.0, None, 4)])
def test_a_tag_survives_the_way_through_extra_args(tag: RequestTag) -> None:
    extra = tag.to_extra_args()
    assert read({**extra, "other": 1}) == tag
    assert all(name.startswith(RESERVED_PREFIX) for name in extra)


@pytest.mark.parametrize("extra", [None, {}, {"other": 1}, {RATIO_KEY: 0.6}])
def test_a_request_without_a_tag_has_none(extra: Any) -> None:
    assert read(extra) is None
    assert tag_of(None) is None
    assert tag_of(object()) is None


WRONG: dict[str, dict[str, Any]] = {
    "no ratio": {RATIO_KEY: None},
    "ratio of zero": {RATIO_KEY: 0},
    "ratio above one": {RATIO_KEY: 1.5},
    "ratio as text": {RATIO_KEY: "0.6"},
    "ratio that is no number": {RATIO_KEY: math.nan},
    "ratio as truth value": {RATIO_KEY: True},
    "codebook as list": {CODEBOOK_KEY: [BOOK]},
    "empty span": {SPAN_KEY: [4, 4]},
    "span backwards": {SPAN_KEY: [4, 2]},
    "span below zero": {SPAN_KEY: [-1, 2]},
    "span of truth values": {SPAN_KEY: [False, True]},
    "span of three": {SPAN_KEY: [1, 2, 3]},
    "span of floats": {SPAN_KEY: [1.0, 2.0]},
    "span as text": {SPAN_KEY: "12"},
    "negative explain": {EXPLAIN_KEY: -1},
    "explain as truth value": {EXPLAIN_KEY: True},
    "explain as text": {EXPLAIN_KEY: "3"},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_what_a_client_sends_past_the_middleware_is_no_tag(wrong: dict[str, Any]) -> None:
    assert read(PLAIN) == RequestTag(BOOK, 0.6)
    assert read({**PLAIN, **wrong}) is None


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
NAMES = st.sampled_from([CODEBOOK_KEY, RATIO_KEY, SPAN_KEY, EXPLAIN_KEY])
NEARLY = st.fixed_dictionaries(
    {CODEBOOK_KEY: st.just(BOOK) | JSON, RATIO_KEY: st.floats(0, 1) | JSON},
    optional={SPAN_KEY: st.lists(st.integers(), max_size=3) | JSON, EXPLAIN_KEY: st.integers() | JSON},
)


@settings(max_examples=300, deadline=None)
@given(extra=NEARLY | st.dictionaries(NAMES, JSON) | JSON | st.lists(NAMES) | NAMES, prompt=st.integers(1, 2**40))
def test_reading_never_fails_and_what_is_read_has_a_window(extra: Any, prompt: int) -> None:
    """It runs in the scheduler, where an exception would end the engine for everybody."""
    tag = read(extra)
    if tag is not None:
        start, stop = tag.window(prompt)
        assert 0 <= start < stop <= prompt
        assert read(tag.to_extra_args()) == tag


@pytest.mark.parametrize(
    ("length", "ratio", "start"), [(1, 0.01, 0), (10, 0.6, 4), (10, 1.0, 0), (7, 0.5, 3), (100, 0.01, 99)]
)
def test_without_a_span_the_window_ends_with_the_prompt(length: int, ratio: float, start: int) -> None:
    assert RequestTag(BOOK, ratio).window(length) == (start, length)


@pytest.mark.parametrize(
    ("span", "ratio", "window"),
    [
        ((4, 14), 0.6, (8, 14)),
        ((4, 14), 1.0, (4, 14)),
        ((0, 1), 0.6, (0, 1)),
        ((19, 20), 0.5, (19, 20)),
        ((5, 8), 0.01, (7, 8)),
    ],
)
def test_the_window_is_the_end_of_the_span_wherever_it_lies(
    span: tuple[int, int], ratio: float, window: tuple[int, int]
) -> None:
    assert RequestTag(BOOK, ratio, span).window(20) == window


@pytest.mark.parametrize(("span", "window"), [((4, 40), (4, 10)), ((10, 12), (9, 10)), ((99, 100), (9, 10))])
def test_a_span_past_the_prompt_is_cut_and_never_empty(span: tuple[int, int], window: tuple[int, int]) -> None:
    assert RequestTag(BOOK, 1.0, span).window(10) == window
