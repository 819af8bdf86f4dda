"""The loops over keys: one product of a query and a key, to the bit, wherever they stand; sums as the definition's."""

import numpy as np
import pytest

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


def test_nothing_outside_of_a_part_is_written() -> None:
    queries, keys, rows = made(5, 20, 33)
    scores = np.full((5, 20), np.nan, np.float32)
    score_keys(queries, keys, rows, 3, 14, scores)
    assert not np.isnan(scores[:, 3:14]).any()
    assert np.isnan(scores[:, [*range(3), *range(14, 20)]]).all()
    around = np.full((3, 33), 7.0, np.float32)
    sweep_keys(queries[:1], keys, rows, np.float32(20), 3, 14, scores, around[1:2], np.full(1, -np.inf, np.float32))
    assert (around[[0, 2]] == 7.0).all()
    assert (around[1] != 7.0).any()
    assert np.isnan(scores[:, [*range(3), *range(14, 20)]]).all()


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
    asked, keys, rows = made(7, 300, width)
    asked[5] = keys[rows[200]]

    def swept(queries: Array) -> Array:
        scores, sums = np.empty((len(queries), 300), np.float32), np.zeros_like(queries)
        tops = np.full(len(queries), top, np.float32)
        sweep_keys(queries, keys, rows, np.float32(20.0), 0, 300, scores, sums, tops)
        return sums

    together = swept(asked)
    for first, last in ((0, 1), (5, 6), (1, 5), (2, 7), (4, 7)):
        assert (swept(asked[first:last].copy()) == together[first:last]).all()
