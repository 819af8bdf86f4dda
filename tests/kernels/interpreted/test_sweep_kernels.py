"""The kernels of the one-pass route: sums, first scores from bf16 parts, and keys that are read again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.kernels import route
from horen_vllm.kernels.bounds import SLACK, cut_for, lowest
from horen_vllm.kernels.groups import BLOCK_N, chunking
from horen_vllm.kernels.route import route_triton
from horen_vllm.kernels.sweep_kernels import cut_kernel
from tests.kernels.books import Book, assert_same, check, crowd, make_book, queries_of

PART_ERROR = 2.0**-19
"""Of a score from bf16 parts where the interpreter truncates: about 6 products of 2^-21 (README)."""


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    keys=st.sampled_from((1, 2, 63, 65, 130)),
    width=st.sampled_from((8, 33, 200)),
    batch=st.sampled_from((1, 17)),
    twins=st.integers(0, 4),
    near=st.integers(0, 4),
)
def test_first_scores_from_the_matrix_units_change_no_bit(
    seed: int, keys: int, width: int, batch: int, twins: int, near: int
) -> None:
    book = make_book(seed, keys, width, keys, twins=twins, near=near)
    queries = queries_of(book, batch, seed)
    assert_same(book.run(route_triton, queries, matrix=True), book.run(route_triton, queries))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), width=st.sampled_from((8, 100, 700)), scale=st.sampled_from((0.0, 0.9, 0.999)))
def test_scores_from_bf16_parts_are_exact_to_fp32(seed: int, width: int, scale: float) -> None:
    book = crowd(seed, 70, width, scale)
    queries = queries_of(book, 5, seed)
    keys = route._keys(book.keys, [book.group(5)])
    error = route._matrix_scores(queries, keys).double() - queries.double() @ book.keys[book.rows].double().T
    assert float(error.abs().max()) < PART_ERROR < SLACK


@pytest.mark.parametrize(("gamma", "beta"), [(0.01, 20.0), (0.3, 1.0), (0.3, 300.0)])
def test_many_chunks_and_many_blocks_of_a_shortlist(gamma: float, beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "MERGE_BLOCK", 32)
    book = crowd(4, 110, 12, 0.3)
    book.gamma, book.steps, book.beta = gamma, 1, beta
    queries = queries_of(book, 2, 5)
    check(book, queries, book.run(route_triton, queries))


@pytest.mark.parametrize("steps", [1, 2])
def test_keys_too_wide_to_be_held_whole(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "WIDEST_SWEEP", 16)
    book = make_book(2, 40, 33, 40)
    book.gamma, book.steps = 0.3, steps
    queries = queries_of(book, 2, 2)
    check(book, queries, book.run(route_triton, queries))


@settings(max_examples=30, deadline=None)
@given(first=st.floats(-1.0, 1.0), second=st.floats(-1.0, 1.0), chord=st.sampled_from((0.0, 1e-4, 0.05, 0.6, 1.9)))
def test_the_cut_is_that_of_the_bounds(first: float, second: float, chord: float) -> None:
    best, other = max(first, second), min(first, second)
    scores, owners = torch.tensor([[best, other]]), torch.tensor([[1, 0]])
    cut = torch.empty(1)
    keys = route._keys(torch.eye(2), [Book(torch.eye(2), torch.arange(2), torch.arange(2), torch.arange(2)).group(1)])
    cut_kernel[(1,)](
        scores, owners, torch.arange(2), keys.table.numbers, torch.tensor([chord]), cut, cut, 1,
        SETTLED=False, BLOCK=route.MERGE_BLOCK,
    )  # fmt: skip
    reach = 2.0 * float(torch.tensor(0.5 * chord).asin())
    needed = lowest(other, reach)
    if needed <= -1.0 + 1e-6:
        assert float(cut) < -1.0 + 2e-3
    else:
        assert abs(float(cut) - cut_for(needed, reach)) < 1e-3 * (1.0 + chord / (1.0 - abs(needed) + 1e-3))


def test_only_keys_above_the_cut_are_read_again() -> None:
    """The others have become no numbers by then, and nobody notices."""
    book = crowd(8, 300, 24, 0.2)
    queries = queries_of(book, 2, 3)
    keys = route._keys(book.keys, [book.group(2)])
    first = queries @ book.keys[book.rows].T
    cut = route._cut(route._shortlist(first, keys, 1), torch.zeros(2), keys, 1)
    kept = (first >= cut[:, None]).any(dim=0)
    assert 2 <= int(kept.sum()) < 40
    expected = book.run(route_triton, queries)
    book.keys[book.rows[~kept]] = torch.nan
    routed = route._unwritten(queries, some_empty=False)
    route._decide(queries, keys, routed, 1, first, cut)
    assert_same(routed, expected)


@settings(max_examples=30, deadline=None)
@given(keys=st.integers(1, 300_000), width=st.sampled_from((8, 1024, 14336)))
def test_chunks_cover_all_keys_once(keys: int, width: int) -> None:
    chunks, chunk = chunking(keys, width)
    assert chunk % BLOCK_N == 0
    assert (chunks - 1) * chunk < keys <= chunks * chunk
    assert chunks <= 512


def test_a_zero_reach_leaves_ties_to_the_sequence() -> None:
    keys = F.normalize(torch.tensor([[1.0, 0.2], [1.0, 0.2], [1.0, 0.2], [0.0, 1.0]]), dim=-1)
    book = Book(keys, torch.arange(4), torch.arange(4), torch.tensor([5, 9, 7, 1]))
    routed = book.run(route_triton, keys[:1].clone(), matrix=True)
    assert (int(routed.best), int(routed.runner_up)) == (1, 2)
