"""The loops over keys: one product of a query and a key, to the bit, wherever they stand; sums as the definition's."""

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from horen_vllm.kernels import cpu_keys
from horen_vllm.kernels.cpu_compile import Array
from horen_vllm.kernels.cpu_keys import score_keys, sweep_keys

WIDTHS = [1, 15, 16, 33, 1024, 1030]


def made(queries: int, keys: int, width: int) -> tuple[Array, Array, Array]:
    """Return unit queries and keys, and rows in another order than they lie."""
    generator = np.random.default_rng(width)
    both = generator.standard_normal((queries + keys, width), np.float32)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    return both[:queries].copy(), both[queries:].copy(), generator.permutation(keys)


def scored(queries: Array, keys: Array, rows: Array) -> Array:
    scores = np.full((len(queries), len(rows)), np.nan, np.float32)
    score_keys(queries, keys, rows, 0, len(rows), scores)
    return scores


@pytest.mark.parametrize("width", WIDTHS)
def test_a_product_has_the_same_bits_wherever_it_stands(width: int) -> None:
    queries, keys, rows = made(9, 11, width)
    together = scored(queries, keys, rows)
    assert np.allclose(together, queries.astype(np.float64) @ keys[rows].astype(np.float64).T, atol=1e-6)
    for row in range(9):
        for place in range(11):
            alone = scored(queries[row : row + 1], keys[rows[place]][None].copy(), np.zeros(1, np.int64))
            assert alone[0, 0] == together[row, place]
    for size in (2, 4, 5):
        assert (scored(queries[:size].copy(), keys, rows[::-1].copy())[:, ::-1] == together[:size]).all()


@pytest.mark.parametrize("width", [512, 1010, 1024])
def test_keys_that_are_taken_one_by_one_have_the_same_bits(width: int) -> None:
    count = cpu_keys.STREAMED // width + 3
    queries, keys, rows = made(5, count, width)
    alone, together = scored(queries[:1], keys, rows), scored(queries, keys, rows)
    assert np.allclose(together, queries @ keys[rows].T, atol=1e-5)
    few = np.concatenate([scored(queries, keys, rows[first : first + 900]) for first in range(0, count, 900)], axis=1)
    assert (together == few).all()
    assert (alone == few[:1]).all()


def test_nothing_outside_of_a_part_is_read_or_written() -> None:
    queries, keys, rows = made(5, 20, 33)
    outside = [*range(3), *range(14, 20)]
    keys[rows[outside]] = np.nan
    scores, sums = np.full((5, 20), np.nan, np.float32), np.zeros_like(queries)
    score_keys(queries, keys, rows, 3, 14, scores)
    assert not np.isnan(scores[:, 3:14]).any()
    assert np.isnan(scores[:, outside]).all()
    scores[:] = np.nan
    sweep_keys(queries, keys, rows, np.float32(20), 3, 14, scores, sums, np.full(5, -np.inf, np.float32))
    assert np.isfinite(sums).all()
    assert not np.isnan(scores[:, 3:14]).any()
    assert np.isnan(scores[:, outside]).all()


@pytest.mark.parametrize(("queries", "width"), [(1, 33), (1, 1030), (4, 33), (4, 16)])
def test_a_tile_keeps_to_its_rows(queries: int, width: int) -> None:
    """Also where the width ends within a vector."""
    tile = {1: cpu_keys._step_narrow if width < 1024 else cpu_keys._step_one, 4: cpu_keys._step_many}[queries]
    asked, keys, rows = made(queries + 2, 20, width)
    scores, weights = np.full((queries + 2, 20), np.nan, np.float32), np.ones((4, 4), np.float32)
    sums = np.full_like(asked, 7.0)

    def step(asked: Array, keys: Array, rows: Array, scores: Array, sums: Array, weights: Array) -> None:
        tile(asked, 1, keys, rows, 0, 20, scores, sums, weights)

    njit(step)(asked, keys, rows, scores, sums, weights)
    added = 2 if width < 1024 and queries == 1 else 4
    assert (sums[[0, -1]] == 7.0).all()
    assert np.allclose(sums[1:-1], 7.0 + keys[rows[:added]].sum(axis=0), atol=1e-5)
    assert np.isnan(scores[[0, -1]]).all()
    assert (~np.isnan(scores[1:-1])).sum() == queries * added


def test_other_numbers_and_layouts_are_refused() -> None:
    queries, keys, rows = made(1, 20, 32)
    scores = np.empty((1, 10), np.float32)
    for asked, book in ((queries.astype(np.float64), keys), (queries, keys[::2]), (queries[:, ::2], keys[:, ::2])):
        with pytest.raises(TypingError, match="C-contiguous float32"):
            score_keys(asked, book, rows[:10] // 2, 0, 10, scores)
    with pytest.raises(TypingError, match="int64"):
        score_keys(queries, keys, rows.astype(np.int32), 0, 10, scores)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("top", [1.001, -np.inf])
@pytest.mark.parametrize(("queries", "start", "stop"), [(1, 0, 1), (3, 1, 6), (4, 0, 300), (6, 5, 522)])
def test_weighted_keys_beside_the_definition(width: int, top: float, queries: int, start: int, stop: int) -> None:
    asked, keys, rows = made(queries, 530, width)
    asked[0] = keys[rows[stop - 1]]
    beta, scores = np.float32(20.0), np.full((queries, 530), np.nan, np.float32)
    sums, tops = np.zeros_like(asked), np.full(queries, top, np.float32)
    sweep_keys(asked, keys, rows, beta, start, stop, scores, sums, tops)
    assert (scores[:, start:stop] == scored(asked, keys, rows)[:, start:stop]).all()
    assert (tops == (scores[:, start:stop].max(axis=1) if top < 0 else np.float32(top))).all()
    own = asked.astype(np.float64) @ keys[rows[start:stop]].astype(np.float64).T
    expected = np.exp(20.0 * (own - tops.astype(np.float64)[:, None])) @ keys[rows[start:stop]].astype(np.float64)
    assert np.abs(sums - expected).max() <= 2e-5 * np.linalg.norm(expected, axis=1).max()


@pytest.mark.parametrize("width", [33, 1030])
@pytest.mark.parametrize("top", [1.001, -np.inf])
def test_a_query_adds_up_the_same_bits_in_every_batch(width: int, top: float) -> None:
    asked, keys, rows = made(7, 303, width)
    asked[5] = keys[rows[200]]

    def swept(queries: Array) -> Array:
        scores, sums = np.empty((len(queries), 303), np.float32), np.zeros_like(queries)
        tops = np.full(len(queries), top, np.float32)
        sweep_keys(queries, keys, rows, np.float32(20.0), 0, 303, scores, sums, tops)
        return sums

    together = swept(asked)
    for first, last in ((0, 1), (5, 6), (1, 5), (2, 7), (4, 7)):
        assert (swept(asked[first:last].copy()) == together[first:last]).all()
