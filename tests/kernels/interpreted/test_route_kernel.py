"""The route kernels against the definition in fp64: decisions, ties, refinement, poisoned pages."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.core.match import NO_ENTRY
from horen_vllm.kernels.groups import BLOCK_N, RouteGroup, RouteRule, RouteTable
from horen_vllm.kernels.route import MERGE_BLOCK, route_triton
from horen_vllm.kernels.route_cpu import route_cpu
from horen_vllm.kernels.route_kernels import merge_kernel
from tests.kernels.books import Book, check, make_book, queries_of

FORMS = (route_triton, route_cpu)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    keys=st.sampled_from((1, 2, 15, 16, 17, 33)),
    each=st.integers(1, 4),
    width=st.sampled_from((8, 33, 513)),
    batch=st.integers(1, 3),
    method=st.sampled_from(((0.0, 0, 1e-5), (0.01, 1, 1e-5), (0.3, 3, 1e-5), (0.3, 3, 0.4))),
    twins=st.integers(0, 2),
    near=st.integers(0, 2),
)
def test_agrees_with_the_definition(
    seed: int, keys: int, each: int, width: int, batch: int, method: tuple[float, int, float], twins: int, near: int
) -> None:
    book = make_book(seed, keys, width, max(1, keys // each), twins=twins, near=near)
    book.gamma, book.steps, book.epsilon = method
    queries = queries_of(book, batch, seed)
    for form in FORMS:
        check(book, queries, book.run(form, queries))


def test_many_keys_in_several_chunks_of_the_softmax() -> None:
    book = make_book(1, 700, 24, 300)
    book.gamma, book.steps = 0.3, 1
    queries = queries_of(book, 2, 2)
    for form in FORMS:
        check(book, queries, book.run(form, queries))


def test_a_width_of_several_blocks() -> None:
    book = make_book(2, 20, 2500, 20)
    book.gamma, book.steps = 0.3, 2
    queries = queries_of(book, 1, 2)
    for form in FORMS:
        check(book, queries, book.run(form, queries))


def test_a_row_does_not_depend_on_the_batch() -> None:
    book = make_book(3, 40, 33, 20)
    book.gamma, book.steps = 0.3, 2
    queries = queries_of(book, 5, 4)
    for form in FORMS:
        together = book.run(form, queries)
        for row in range(5):
            alone = book.run(form, queries[row : row + 1])
            for name in ("entry", "best", "score", "runner_up", "runner_up_score"):
                assert torch.equal(getattr(alone, name)[0], getattr(together, name)[row]), (form, name)


@pytest.mark.parametrize("seed", range(3))
def test_equal_keys_go_to_the_higher_sequence_wherever_they_lie(seed: int) -> None:
    """Copies of one key in different blocks and at different places of the buffer score bit-equal."""
    book = make_book(seed, 50, 33, 50)
    copies = torch.tensor([0, 7, 15, 16, 31, 49])
    book.keys[book.rows[copies]] = book.keys[book.rows[0]].clone()
    query = book.keys[book.rows[:1]].clone()
    routed = book.run(route_triton, query)
    ranked = book.owners[copies][book.sequences[book.owners[copies]].argsort(descending=True)]
    assert (int(routed.best), int(routed.runner_up)) == (int(ranked[0]), int(ranked[1]))
    assert float(routed.score) == float(routed.runner_up_score)


@pytest.mark.parametrize("newer", [0, 1])
def test_equal_candidates_may_meet_from_turn_to_turn_of_the_merge(newer: int) -> None:
    """Books of more than 8,192 keys are merged in turns of 1,024 candidates; two equal ones share a lane here."""
    scores = torch.full((1, 2 * MERGE_BLOCK), 0.1)
    owners = torch.full((1, 2 * MERGE_BLOCK), 2)
    owners[0, 0], owners[0, MERGE_BLOCK] = 0, 1
    scores[owners != 2] = 0.9
    sequences = torch.tensor([7 - newer, 6 + newer, 99])
    entry, best, second = (torch.full((1,), 77) for _ in range(3))
    score, second_score = torch.empty(1), torch.empty(1)
    keys = torch.zeros(MERGE_BLOCK * BLOCK_N, dtype=torch.int64)
    group = RouteGroup(1, keys, keys, sequences, RouteRule(20.0, 0.0, 0, 0.0, threshold=0.5))
    table = RouteTable([group], 8, part=MERGE_BLOCK, device=keys.device)
    merge_kernel[(1,)](
        scores, owners, sequences, table.numbers, table.rules, entry, best, score, second, second_score, entry, 1,
        SETTLED=False, BLOCK=MERGE_BLOCK,
    )  # fmt: skip
    assert (int(entry), int(best), int(second)) == (newer, newer, 1 - newer)
    assert float(score) == float(second_score) == float(scores.max())


def test_two_keys_of_the_best_entry_hide_no_runner_up() -> None:
    """The block of the best entry holds two of its keys above everybody else's."""
    keys = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.5], [1.0, 1.0]]), dim=-1)
    book = Book(keys, torch.arange(4), torch.tensor([1, 1, 0, 2]), torch.tensor([3, 4, 5]))
    for form in FORMS:
        routed = book.run(form, keys[:1].clone())
        assert (int(routed.entry), int(routed.runner_up)) == (1, 0)


def test_a_row_near_its_attractor_stops_for_good_and_alone() -> None:
    """Row 0 is at its attractor, row 1 is not; epsilon decides for each by itself."""
    keys = torch.eye(2, 8)
    apart = F.normalize(keys[0] + 0.9 * keys[1], dim=0)
    queries = torch.stack([F.normalize(keys[0] + 1e-4 * keys[1], dim=0), apart])
    book = Book(keys, torch.arange(2), torch.arange(2), torch.arange(2), gamma=0.5, steps=3, epsilon=1e-2)
    for form in FORMS:
        routed = book.run(form, queries)
        assert float(routed.score[0]) == float(queries[0] @ keys[0])
        assert float(routed.score[1]) > float(apart @ keys[0]) + 1e-3


def test_nothing_listed_nothing_asked() -> None:
    book = make_book(5, 3, 8, 3)
    queries = queries_of(book, 2, 1)
    book.rows, book.owners = book.rows[:0], book.owners[:0]
    for form in FORMS:
        routed = book.run(form, queries)
        assert routed.best.tolist() == routed.entry.tolist() == routed.runner_up.tolist() == [NO_ENTRY] * 2
        assert routed.score.tolist() == [-torch.inf] * 2
        assert book.run(form, queries[:0]).entry.shape == (0,)


def test_the_threshold_is_strict() -> None:
    keys = torch.eye(2)
    for threshold, entry in ((1.0, NO_ENTRY), (0.999, 0)):
        book = Book(keys, torch.arange(2), torch.arange(2), torch.tensor([8, 3]), threshold=threshold)
        for form in FORMS:
            assert int(book.run(form, keys[:1].clone()).entry) == entry


def test_a_query_that_is_no_number_matches_nothing_and_spoils_nobody() -> None:
    book = make_book(6, 20, 8, 10)
    book.gamma, book.steps, book.threshold = 0.1, 1, -1.0
    queries = queries_of(book, 2, 3)
    clean = [book.run(form, queries[1:]) for form in FORMS]
    queries[0] = torch.nan
    for form, expected in zip(FORMS, clean, strict=True):
        routed = book.run(form, queries)
        assert (int(routed.entry[0]), int(routed.best[0]), int(routed.runner_up[0])) == (NO_ENTRY,) * 3
        assert int(routed.entry[1]) == int(expected.entry[0])
        assert float(routed.score[1]) == float(expected.score[0])
