"""The kernels of route by scores alone: decisions of refined scores, whatever the shapes and the company."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.core.match import NO_ENTRY
from horen_vllm.kernels import route
from horen_vllm.kernels.bounds import least_agreement, settles, widest_reach
from horen_vllm.kernels.groups import RouteTable
from horen_vllm.kernels.route import route_mixed_triton, route_triton
from horen_vllm.kernels.route_cpu import route_cpu
from horen_vllm.kernels.settle_kernels import settle_kernel
from tests.kernels.books import FIELDS, Book, asked, assert_as_alone, check_settled, make_book, queries_of, shelve
from tests.kernels.settled_books import near_the_threshold

as_alone = partial(assert_as_alone, route_mixed_triton, route_triton)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    keys=st.sampled_from((1, 2, 17, 40)),
    width=st.sampled_from((8, 33, 513)),
    gamma=st.sampled_from((0.0, 0.01, 0.1, 0.6)),
    beta=st.sampled_from((1.0, 20.0, 300.0)),
    threshold=st.sampled_from((-torch.inf, 0.3, 0.9, torch.inf)),
    above=st.sampled_from((0.0, 0.05)),
    twins=st.integers(0, 2),
)
def test_entries_are_those_of_refined_scores(
    seed: int, keys: int, width: int, gamma: float, beta: float, threshold: float, above: float, twins: int
) -> None:
    book = make_book(seed, keys, width, max(1, keys // 2), twins=twins, near=1)
    book = replace(book, gamma=gamma, steps=1, beta=beta, threshold=threshold, sure_above=threshold + above)
    check_settled(book, queries_of(book, 2, seed), route_triton)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("gamma", "above"), [(0.01, 0.0), (0.1, 0.0), (0.1, 0.1)])
def test_the_form_for_cpus_settles_the_same_rows(
    gamma: float, above: float, *, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several parts of the shortlist; of wide keys the open rows are added up from their first scores."""
    monkeypatch.setattr(route, "MERGE_BLOCK", 32)
    if wide:
        monkeypatch.setattr(route, "WIDEST_SWEEP", 16)
    book, queries = near_the_threshold(3, 110, 40, gamma, above)
    settled = check_settled(book, queries, route_triton)
    assert settled == check_settled(book, queries, route_cpu)
    assert (settled[0], settled[4]) == (True, False)
    found, expected = book.run(route_triton, queries), book.run(route_cpu, queries)
    for name in ("entry", "best", "runner_up"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_settled_rows_are_read_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they are settled the keys become no numbers; rows that are open notice."""
    settle = route._settle

    def settle_and_spoil(queries: torch.Tensor, keys: route._Keys, *more: object) -> object:
        first = settle(queries, keys, *more)  # type: ignore[arg-type]
        keys.buffer.fill_(torch.nan)
        return first

    book, queries = near_the_threshold(3, 50, 40, 0.1, 0.0)
    settled = check_settled(book, queries, route_triton)
    expected = book.run(route_triton, queries)
    monkeypatch.setattr(route, "_settle", settle_and_spoil)
    found = book.run(route_triton, queries)
    for name in FIELDS:
        same = [torch.equal(*(getattr(it, name)[row] for it in (found, expected))) for row in range(len(queries))]
        assert [row for row, own in zip(same, settled, strict=True) if own] == [True] * sum(settled)
    assert int(found.best[4]) == NO_ENTRY


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    drawn=st.lists(
        st.tuples(st.sampled_from((1, 16, 33)), st.integers(0, 2), st.sampled_from((0, 1, 2)), st.booleans()),
        min_size=1,
        max_size=4,
    ),
)
def test_a_mixed_batch_has_the_bits_of_each_book_alone(seed: int, drawn: list[tuple[int, int, int, bool]]) -> None:
    books = []
    for number, (keys, _, steps, may_settle) in enumerate(drawn):
        book = make_book(seed + number, keys, 33, keys)
        books.append(replace(book, gamma=0.1, steps=steps, sure_above=0.4 if may_settle else None))
    books = shelve(books, seed)
    as_alone(books, asked(books, [row[1] for row in drawn], seed))


def test_a_query_that_is_no_number_matches_nothing_and_spoils_nobody() -> None:
    book, queries = near_the_threshold(3, 50, 40, 0.1, 0.0)
    expected = book.run(route_triton, queries)
    queries[1, 3] = torch.nan
    queries[5, 0] = torch.nan
    found = book.run(route_triton, queries)
    for row in range(len(queries)):
        if row in {1, 5}:
            assert found.entry[row] == found.best[row] == NO_ENTRY
        else:
            assert all(torch.equal(getattr(found, name)[row], getattr(expected, name)[row]) for name in FIELDS)


@settings(max_examples=60, deadline=None)
@given(
    first=st.floats(-1.0, 1.0),
    second=st.floats(-1.0, 1.0),
    gamma=st.sampled_from((0.0, 0.01, 0.1, 0.49, 0.5, 0.9)),
    threshold=st.floats(-1.0, 1.0),
    above=st.sampled_from((0.0, 0.1)),
)
def test_what_settles_is_certain_by_the_bounds(
    first: float, second: float, gamma: float, threshold: float, above: float
) -> None:
    """Never more than the bounds with half of the slack allow, and nearly all that they allow."""
    best, other = max(first, second), min(first, second)
    book = Book(torch.eye(2), torch.arange(2), torch.arange(2), torch.arange(2), gamma=gamma, steps=1)
    group = replace(book, threshold=threshold, sure_above=threshold + above).group(1)
    table = RouteTable([group], 2, settles=True, part=route.MERGE_BLOCK, device=torch.device("cpu"))
    scores, owners = torch.tensor([[best, other]]), torch.tensor([[1, 0]])
    mean = 0.3
    weighed = torch.tensor([[mean, 1.0, mean]])
    is_open = torch.zeros(1, dtype=torch.int32)
    entry, found, runner_up = (torch.full((1,), 77) for _ in range(3))
    score, runner_up_score = torch.empty(1), torch.empty(1)
    settle_kernel[(1,)](
        scores, owners, weighed, torch.arange(2), table.numbers, table.rules, is_open,
        entry, found, score, runner_up, runner_up_score, 1, BLOCK=route.MERGE_BLOCK,
    )  # fmt: skip
    reach = widest_reach(mean, gamma)
    if not int(is_open):
        assert settles(best, other, threshold + 1e-4, threshold + above - 1e-4, max(0.0, reach - 5e-5))
        assert (int(entry) == 1) == (best > threshold)
        assert (int(found), int(runner_up)) == (1, 0)
    else:
        widest = widest_reach(least_agreement(mean, best, book.beta) - 1e-3, gamma) + 1e-4
        assert not settles(best, other, threshold - 1e-4, threshold + above + 1e-4, widest)
