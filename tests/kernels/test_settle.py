"""Route by scores alone on CPUs: what is certain without refinement has the same decision, the rest is refined."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.core.match import NO_ENTRY
from horen_vllm.kernels.route_cpu import route_counted, route_cpu
from tests.kernels.books import FIELDS, assert_same, check_settled, crowd, make_book, queries_of
from tests.kernels.settled_books import near_the_threshold


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    keys=st.sampled_from((1, 2, 17, 300)),
    each=st.sampled_from((1, 3)),
    width=st.sampled_from((8, 33, 700)),
    gamma=st.sampled_from((0.0, 0.01, 0.1, 0.6)),
    beta=st.sampled_from((1.0, 20.0, 300.0)),
    threshold=st.sampled_from((-torch.inf, -0.5, 0.3, 0.9, torch.inf)),
    above=st.sampled_from((0.0, 0.05)),
    twins=st.integers(0, 3),
    near=st.integers(0, 3),
)
def test_entries_are_those_of_refined_scores(
    seed: int,
    keys: int,
    each: int,
    width: int,
    gamma: float,
    beta: float,
    threshold: float,
    above: float,
    twins: int,
    near: int,
) -> None:
    book = make_book(seed, keys, width, max(1, keys // each), twins=twins, near=near)
    book = replace(book, gamma=gamma, steps=1, beta=beta, threshold=threshold, sure_above=threshold + above)
    check_settled(book, queries_of(book, 4, seed), route_cpu)


@pytest.mark.parametrize("above", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_between_first_and_refined_score(seed: int, gamma: float, above: float) -> None:
    book, queries = near_the_threshold(seed, 200, 60, gamma, above)
    settled = check_settled(book, queries, route_cpu)
    assert not settled[4]
    assert settled[0]
    assert settled[7] or book.sure_above is None or book.sure_above > 0.95


def test_what_is_certain_is_read_once() -> None:
    book, queries = near_the_threshold(1, 200, 60, 0.1, 0.0)
    settled = check_settled(book, queries, route_cpu)
    method: dict[str, Any] = {
        "beta": book.beta,
        "gamma": book.gamma,
        "steps": 1,
        "epsilon": 1e-5,
        "threshold": book.threshold,
    }
    columns = (book.keys, book.rows, book.owners, book.sequences)
    _, shares = route_counted(queries, *columns, **method, sure_above=book.sure_above)
    assert [again == 0 for again in shares.again.tolist()] == settled
    assert (shares.again[~torch.tensor(settled)] >= 200).all()


def test_a_row_has_the_same_bits_in_every_batch() -> None:
    book, queries = near_the_threshold(2, 90, 1030, 0.1, 0.0)
    together = book.run(route_cpu, queries)
    assert len(set(check_settled(book, queries, route_cpu))) == 2
    for row in range(len(queries)):
        alone = book.run(route_cpu, queries[row : row + 1])
        for name in FIELDS:
            assert torch.equal(getattr(alone, name), getattr(together, name)[row : row + 1]), name


def test_equal_keys_are_never_settled_by_their_order() -> None:
    book = make_book(5, 40, 33, 40, twins=20)
    book = replace(book, gamma=0.01, steps=1, threshold=0.5, sure_above=0.5)
    queries = book.keys[book.rows[[0, 39]]]
    found = book.run(route_cpu, queries)
    assert int(found.entry[0]) == int(found.entry[1]) != NO_ENTRY
    assert not any(check_settled(book, queries, route_cpu))


@pytest.mark.parametrize("steps", [0, 2])
def test_other_numbers_of_steps_take_the_plain_way(steps: int) -> None:
    book = crowd(4, 60, 33, 0.4)
    book = replace(book, gamma=0.1, steps=steps, sure_above=0.3)
    queries = queries_of(book, 3, 1)
    assert_same(book.run(route_cpu, queries), replace(book, sure_above=None).run(route_cpu, queries))


def test_a_query_that_is_no_number_matches_nothing() -> None:
    book = replace(crowd(4, 60, 33, 0.4), gamma=0.1, steps=1, threshold=-torch.inf, sure_above=-1.0)
    queries = queries_of(book, 3, 1)
    queries[1, 5] = torch.nan
    found = book.run(route_cpu, queries)
    assert found.entry[1] == found.best[1] == NO_ENTRY
    assert float(found.score[1]) == -torch.inf
    assert (found.entry[[0, 2]] != NO_ENTRY).all()
