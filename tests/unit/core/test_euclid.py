"""Euclidean nearness as a scalar product."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.core.euclid import distances, lifted_key, lifted_query, rounding


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), width=st.sampled_from([1, 7, 512, 14336]), power=st.sampled_from([1, 3, 5]))
def test_products_are_distances_up_to_the_rounding(seed: int, width: int, power: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(6, width, generator=generator) ** power
    rows = keys[torch.tensor([0, 3])] + 0.01 * torch.randn(2, width, generator=generator)
    exact = (rows.double()[:, None] - keys.double()).square().sum(dim=-1)
    torch.testing.assert_close(distances(rows, lifted_key(keys)).double().square(), exact, rtol=1e-5, atol=0.0)
    products = -2.0 * (lifted_query(rows) @ lifted_key(keys).T).double()
    assert bool(((products - exact).abs() <= rounding(rows, lifted_key(keys))).all())


def test_rows_are_lifted_in_single_precision() -> None:
    rows = torch.tensor([[3.0, 4.0]], dtype=torch.bfloat16)
    assert lifted_key(rows).tolist() == [[3.0, 4.0, -12.5, -0.5]]
    assert lifted_query(rows).tolist() == [[3.0, 4.0, 1.0, 25.0]]
    assert lifted_key(rows).dtype == lifted_query(rows).dtype == torch.float32
    assert distances(rows[:0], lifted_key(rows)).shape == (0, 1)
