"""Queries of several books in one sequence of launches: each row has the bits of its own book's call."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.core.match import NO_ENTRY
from horen_vllm.kernels import groups, route
from horen_vllm.kernels.route import route_mixed_triton, route_triton
from tests.kernels.books import Book, asked, assert_as_alone, check, make_book, shelve

as_alone = partial(assert_as_alone, route_mixed_triton, route_triton)

METHODS = (
    (0.0, 0, 1e-5, 20.0, 0.3),
    (0.01, 1, 1e-5, 20.0, 0.9),
    (0.3, 3, 1e-5, 5.0, -torch.inf),
    (0.3, 2, 0.4, 60.0, 0.5),
)
"""gamma, steps, epsilon, beta, threshold."""
BOOKS = st.tuples(
    st.sampled_from((0, 1, 2, 15, 16, 17, 33)),
    st.integers(0, 3),
    st.sampled_from(METHODS),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(0, 2),
)
"""Keys, queries, method, keys of an entry, twins, near ties."""


def empty_book(width: int) -> Book:
    none = torch.zeros(0, dtype=torch.int64)
    return Book(torch.zeros(1, width), none, none, none)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), width=st.sampled_from((8, 33, 513)), drawn=st.lists(BOOKS, min_size=1, max_size=4))
def test_a_mixed_batch_has_the_bits_of_each_book_alone(
    seed: int, width: int, drawn: list[tuple[int, int, tuple[float, int, float, float, float], int, int, int]]
) -> None:
    books = []
    for number, (keys, _, method, each, twins, near) in enumerate(drawn):
        book = empty_book(width)
        if keys:
            book = make_book(seed + number, keys, width, max(1, keys // each), twins=twins, near=near)
        book.gamma, book.steps, book.epsilon, book.beta, book.threshold = method
        books.append(book)
    books = shelve(books, seed)
    as_alone(books, asked(books, [row[1] for row in drawn], seed))


def test_what_is_decided_is_the_definition() -> None:
    books = shelve([make_book(seed, keys, 40, keys) for seed, keys in enumerate((1, 70, 18))], 3)
    for book, (gamma, steps) in zip(books, ((0.3, 1), (0.0, 0), (0.3, 2)), strict=True):
        book.gamma, book.steps = gamma, steps
    queries = asked(books, (2, 1, 3), 5)
    batch = [book.group(len(rows)) for book, rows in zip(books, queries, strict=True)]
    routed = route_mixed_triton(torch.cat(queries), books[0].keys, batch)
    first = 0
    for book, rows in zip(books, queries, strict=True):
        own = slice(first, first + len(rows))
        check(book, rows, type(routed)(*(getattr(routed, name)[own] for name in routed.__slots__)))
        first = own.stop


def test_small_books_beside_one_whose_chunks_are_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "chunking", lambda keys, _: (-(-keys // 48), 48) if keys > 48 else (1, 16))
    sizes = (3, 200, 1, 0)
    books = shelve([make_book(seed, keys, 8, keys) if keys else empty_book(8) for seed, keys in enumerate(sizes)], 1)
    for book in books:
        book.gamma, book.steps = 0.1, 1
    as_alone(books, asked(books, (2, 2, 1, 1), 7))


@pytest.mark.parametrize("steps", [1, 2])
def test_keys_too_wide_to_be_held_whole(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "WIDEST_SWEEP", 16)
    books = shelve([make_book(seed, keys, 150, keys) for seed, keys in enumerate((20, 3, 35))], 2)
    for book, own in zip(books, (steps, 0, 1), strict=True):
        book.gamma, book.steps = 0.3, own
    as_alone(books, asked(books, (2, 2, 1), 4))


def test_several_parts_of_a_shortlist_and_turns_of_a_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "MERGE_BLOCK", 32)
    books = shelve([make_book(seed, keys, 12, keys // 2) for seed, keys in enumerate((110, 31, 33, 600))], 2)
    for book in books:
        book.gamma, book.steps = 0.05, 1
    as_alone(books, asked(books, (1, 2, 1, 1), 4))


def test_more_groups_than_one_look_into_the_table() -> None:
    books = shelve([make_book(seed, 1 + seed % 3, 8, 1 + seed % 2) for seed in range(131)], 6)
    for number, book in enumerate(books):
        book.gamma, book.steps = 0.2, int(number in (5, 66, 130))
    as_alone(books, asked(books, [1] * 131, 9))


def test_copies_of_one_key_go_to_each_books_own_newest() -> None:
    keys = F.normalize(torch.tensor([[1.0, 0.2]]), dim=-1).repeat(40, 1)
    books = shelve([Book(keys, torch.arange(40), torch.arange(40), torch.randperm(40)) for _ in range(3)], 4)
    routed = route_mixed_triton(keys[:3].clone(), books[0].keys, [book.group(1) for book in books])
    ranked = [book.sequences.argsort(descending=True)[:2].tolist() for book in books]
    assert torch.stack([routed.best, routed.runner_up], 1).tolist() == ranked
    assert torch.equal(routed.score, routed.runner_up_score)


def test_a_query_that_is_no_number_spoils_nobody() -> None:
    books = shelve([make_book(seed, 20, 8, 10) for seed in range(2)], 4)
    for book in books:
        book.gamma, book.steps, book.threshold = 0.1, 1, -1.0
    queries = asked(books, (2, 2), 3)
    queries[0][1] = torch.nan
    as_alone(books, queries)
    routed = route_mixed_triton(torch.cat(queries), books[0].keys, [book.group(2) for book in books])
    assert (routed.entry == NO_ENTRY).tolist() == [False, True, False, False]


def test_nothing_listed_nothing_asked() -> None:
    books = [empty_book(8), make_book(1, 3, 8, 3)]
    queries = torch.ones(2, 8)
    routed = route_mixed_triton(queries, books[1].keys, [books[0].group(2), books[1].group(0)])
    assert routed.best.tolist() == routed.entry.tolist() == routed.runner_up.tolist() == [NO_ENTRY] * 2
    assert routed.score.tolist() == routed.runner_up_score.tolist() == [-torch.inf] * 2
    assert route_mixed_triton(queries[:0], books[1].keys, []).entry.shape == (0,)
