"""The spherical bound: no key is ruled out that a refined query could bring to the top."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.kernels.bounds import (
    SLACK,
    cut_for,
    highest,
    least_agreement,
    lowest,
    reach_of,
    settles,
    widest_reach,
)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    width=st.sampled_from((2, 3, 16)),
    gamma=st.sampled_from((0.0, 0.01, 0.1, 0.3, 0.49, 0.7, 0.99)),
    share=st.floats(0.0, 0.999),
    beta=st.sampled_from((1.0, 20.0, 200.0)),
)
def test_the_bounds_hold(seed: int, width: int, gamma: float, share: float, beta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(width, generator=generator, dtype=torch.float64)
    noise = torch.randn(9, width, generator=generator, dtype=torch.float64)
    query, *rest = F.normalize(share * common + (1 - share) * noise, dim=-1)
    keys = torch.stack(rest)
    scores = keys @ query
    weights = torch.softmax(beta * scores, dim=0)
    target = F.normalize(weights @ keys, dim=0)
    refined = F.normalize((1 - gamma) * query + gamma * target, dim=0)
    reach = reach_of(float((refined - query).norm()))
    mean, top = float(weights @ scores), float(scores.max())
    assert widest_reach(0.0, gamma) >= widest_reach(mean, gamma) >= reach - 2e-5
    rough = scores + SLACK * (2.0 * torch.rand(len(scores), generator=generator, dtype=torch.float64) - 1.0)
    rough_mean = float(torch.softmax(beta * rough, dim=0) @ rough)
    assert least_agreement(rough_mean, float(rough.max()), beta) <= mean <= top
    after = keys @ refined
    for first, score in zip(scores.tolist(), after.tolist(), strict=True):
        assert lowest(first, reach) <= score <= highest(first, reach)
        for needed in (score, score - 1e-3, -1.0):
            assert first >= cut_for(needed, reach)


def test_what_settles() -> None:
    reach = widest_reach(0.0, 0.1)
    assert settles(0.6, 0.5, 0.85, 0.85, reach)
    assert settles(0.6, 0.6, 0.85, 0.85, reach)
    assert not settles(0.8, 0.5, 0.85, 0.85, reach)
    assert not settles(0.9, 0.5, 0.85, 0.85, reach)
    assert settles(0.95, 0.5, 0.85, 0.85, reach)
    assert not settles(0.95, 0.5, 0.85, 0.95, reach)
    assert not settles(0.95, 0.9, 0.85, 0.85, reach)
    assert settles(0.95, -math.inf, 0.85, 0.85, reach)
    assert not settles(1.0, -math.inf, 0.85, 0.85, math.pi)
    assert settles(-math.inf, -math.inf, -0.999, -0.9, reach) is (highest(-1.0, reach) + SLACK <= -0.999)


def test_a_query_that_did_not_move_needs_only_the_slack() -> None:
    assert reach_of(0.0) == 0.0
    assert math.isclose(cut_for(0.5, 0.0), 0.5, abs_tol=3e-4)
    assert cut_for(0.5, 0.0) < 0.5
    assert cut_for(-math.inf, 0.1) == -math.inf


def test_the_band_of_the_presets() -> None:
    """Architecture, section 7: around c = 0.85 gamma 0.01 leaves [.845, .855] open, gamma 0.1 [.786, .903]."""
    for gamma, low, high in ((0.01, 0.845, 0.855), (0.1, 0.786, 0.903)):
        reach = math.asin(gamma / (1.0 - gamma))
        assert math.isclose(cut_for(0.85, reach), low, abs_tol=1.5e-3)
        assert math.isclose(lowest(high, reach), 0.85, abs_tol=1.5e-3)
