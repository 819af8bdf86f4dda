"""Refinement: the paper's theorems as properties, and independence of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.core.refine import attractor, energy, refine


def unit(seed: int, rows: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


cases = {
    "seed": st.integers(0, 2**31),
    "keys": st.integers(1, 40),
    "width": st.integers(2, 48),
    "beta": st.sampled_from([0.5, 1.0, 5.0, 20.0, 80.0]),
}


@settings(max_examples=20, deadline=None)
@given(**cases)
def test_undamped_map_descends_its_energy(seed: int, keys: int, width: int, beta: float) -> None:
    """Theorem 2.1 by Lemma C.1: E falls by at least half the squared step, at every step."""
    key_rows, query = unit(seed, keys, width), unit(seed + 1, 3, width)
    for _ in range(20):
        moved = attractor(query, key_rows, beta)
        fall = energy(query, key_rows, beta) - energy(moved, key_rows, beta)
        assert (fall >= (moved - query).square().sum(-1) / 2 - 1e-12).all()
        query = moved


@settings(max_examples=20, deadline=None)
@given(**cases, count=st.integers(1, 30))
def test_best_residual_is_bounded(seed: int, keys: int, width: int, beta: float, count: int) -> None:
    """Proposition 2.2: the smallest of the first N residuals is at most 2 / sqrt(N)."""
    key_rows, query = unit(seed, keys, width), unit(seed + 1, 2, width)
    start = energy(query, key_rows, beta)
    residuals = []
    for _ in range(count):
        moved = attractor(query, key_rows, beta)
        residuals.append((moved - query).norm(dim=-1))
        query = moved
    stacked = torch.stack(residuals)
    assert (stacked.amin(0) <= 2 / count**0.5 + 1e-12).all()
    assert (stacked.square().sum(0) <= 2 * (start - energy(query, key_rows, beta)) + 1e-9).all()


@settings(max_examples=20, deadline=None)
@given(**cases, gamma=st.sampled_from([0.01, 0.1, 0.5]))
def test_a_step_turns_the_query_by_no_more_than_its_bound(
    seed: int, keys: int, width: int, beta: float, gamma: float
) -> None:
    """The turn obeys tan(delta) = g sin(theta) / ((1-g) + g cos(theta)), so sin(delta) <= g / (1-g)."""
    key_rows, query = unit(seed, keys, width), unit(seed + 1, 4, width)
    refined = refine(query, key_rows, beta=beta, gamma=gamma, steps=1, epsilon=0.0)
    torch.testing.assert_close(refined.norm(dim=-1), torch.ones(4, dtype=torch.float64))
    turn = torch.arccos((refined * query).sum(-1).clamp(-1, 1))
    assert (turn <= torch.arcsin(torch.tensor(min(gamma / (1 - gamma), 1.0))) + 1e-6).all()


def test_early_stop_is_taken_row_by_row() -> None:
    """A query that sits on its attractor stops; its neighbour goes on (Alg. 1, without the batch-wide test)."""
    key_rows = torch.eye(3)
    queries = torch.stack([key_rows[0], F.normalize(torch.tensor([1.0, 1.0, 0.2]), dim=0)])
    together = refine(queries, key_rows, beta=400.0, gamma=0.1, steps=3, epsilon=1e-3)
    apart = torch.cat([refine(row[None], key_rows, beta=400.0, gamma=0.1, steps=3, epsilon=1e-3) for row in queries])
    assert torch.equal(together[0], queries[0])
    assert not torch.equal(together[1], queries[1])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_no_keys_or_no_steps_leave_the_query_alone(steps: int) -> None:
    query = unit(3, 2, 8)
    assert torch.equal(refine(query, query[:0], beta=20, gamma=0.1, steps=steps, epsilon=1e-5), query)
    assert torch.equal(refine(query, query, beta=20, gamma=0.1, steps=0, epsilon=1e-5), query)
