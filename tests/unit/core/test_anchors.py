# ruff: noqa: RUF001 - letters that look alike are the point
"""Anchors: found as a search of every name at every place finds them, and leaving no trace."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.core.anchors import MAX_WORDS, Anchor, AnchorTable, WordRange, anchor_of
from horen_vllm.core.words import plain_words
from horen_vllm.errors import InvalidArgument

WORDS = st.sampled_from(["paris", "hilton", "new", "york"])
NAMES = st.lists(st.lists(WORDS, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)
TABLES = st.dictionaries(st.integers(0, 6), NAMES, max_size=6)


def searched(names: Sequence[Anchor], words: Sequence[str]) -> tuple[WordRange, ...]:
    """Return where the names are, from left to right: at each place the longest, if it is behind the last."""
    places: list[WordRange] = []
    for start in range(len(words)):
        stops = [start + len(name) for name in names if tuple(words[start : start + len(name)]) == name]
        if stops and (not places or places[-1][1] <= start):
            places.append((start, max(stops)))
    return tuple(places)


def found(table: AnchorTable, text: str) -> dict[int, tuple[WordRange, ...]]:
    return table.find(plain_words(text))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(anchors=TABLES, words=st.lists(WORDS, max_size=9))
def test_find_is_a_search_for_every_name(anchors: dict[int, list[Anchor]], words: list[str]) -> None:
    expected = {entry: places for entry, names in anchors.items() if (places := searched(names, words))}
    assert AnchorTable(anchors).find(words) == expected


@settings(max_examples=150, deadline=None, derandomize=True)
@given(anchors=TABLES, others=TABLES, order=st.randoms(use_true_random=False))
def test_what_is_taken_back_leaves_no_trace(
    anchors: dict[int, list[Anchor]], others: dict[int, list[Anchor]], order: Any
) -> None:
    table = AnchorTable(anchors)
    passing = [(entry + 10, names) for entry, names in others.items()]
    for entry, names in passing:
        table.add(entry, names)
    order.shuffle(passing)
    for entry, names in passing:
        table.remove(entry, names)
    plain = AnchorTable(anchors)
    assert (table._entries, table._lengths, len(table)) == (plain._entries, plain._lengths, len(plain))
    for entry, names in anchors.items():
        table.remove(entry, names)
    assert (table._entries, table._lengths) == ({}, {})


def test_a_name_within_another_is_found_for_its_own_entry() -> None:
    table = AnchorTable({1: [anchor_of("Paris")], 2: [anchor_of("Paris Hilton")], 3: [anchor_of("Hilton Paris")]})
    assert found(table, "Was Paris Hilton in PARIS’s Hilton?") == {1: ((1, 2), (4, 5)), 2: ((1, 3),)}
    assert found(table, "Hilton, Paris: Hilton") == {1: ((1, 2),), 2: ((1, 3),), 3: ((0, 2),)}
    assert found(table, "Parisian") == {}


def test_names_are_found_whatever_they_are_written_in() -> None:
    pairs = (
        ("São Paulo", "Who runs SAO PAULO?"),
        ("Ａｃｍｅ", "Acme’s founder"),
        ("東京", "日本の東京都に"),
        ("서울", "서울은 어디에"),
        ("กรุงเทพ", "ใน กรุงเทพมหานคร"),
        ("दिल्ली", "नई दिल्ली की"),
        ("محمد", "من هو مُحَمَّد؟"),
        ("Ёлкин", "Где елкин?"),
    )
    for name, text in pairs:
        assert found(AnchorTable({5: [anchor_of(name)]}), text).keys() == {5}


@pytest.mark.parametrize("name", ["", " ", "!?", "—", "☀️", "\u0301", "a " * (MAX_WORDS + 1)])
def test_names_that_cannot_be_looked_for_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be looked for") as caught:
        anchor_of(name)
    assert caught.value.code == "invalid_anchor"


def test_the_longest_name_is_found() -> None:
    name = anchor_of("a " * MAX_WORDS)
    assert AnchorTable({1: [name]}).find(["b", *name, "a"]) == {1: ((1, MAX_WORDS + 1),)}


class Counting(dict[Any, Any]):
    """Counts how often it is looked into."""

    looks = 0

    def get(self, key: Any, default: Any = None) -> Any:
        Counting.looks += 1
        return super().get(key, default)


def looks(names: int, words: Sequence[str]) -> int:
    table = AnchorTable({number: [anchor_of(f"name {number}"), anchor_of(f"{number} name")] for number in range(names)})
    table._entries, table._lengths = Counting(table._entries), Counting(table._lengths)
    Counting.looks = 0
    assert table.find(words).keys() == {5, 7}
    return Counting.looks


def test_ten_thousand_names_cost_as_many_looks_as_ten() -> None:
    words = plain_words("Who met name 7, and was that before 5 name?")
    assert looks(5000, words) == looks(10, words) <= 2 * len(words)
