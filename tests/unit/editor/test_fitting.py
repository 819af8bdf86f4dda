"""Fitting: prompts are spread evenly in the space that is fitted on them, and rare words weigh more."""

import math

import pytest
import torch

from horen_vllm.core.routing import hashed_grams
from horen_vllm.editor.calibration.fitting import fit_space, rarities


def prompts(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Activations with a large common part and a few directions that most of the variance is in."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(1.5, -1, width)
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    spread: torch.Tensor = (torch.randn(count, width, generator=generator) * scales) @ turn
    return 20 + spread


@pytest.mark.parametrize(("count", "width"), [(600, 24), (30, 64)])
def test_fitted_queries_are_white(count: int, width: int) -> None:
    means = prompts(count, width).double()
    space = fit_space(means.float(), [], shrinkage=1e-7, word_share=0.0)
    whitened = (means - space.mean.double()) @ space.matrix.double().T
    torch.testing.assert_close(whitened.mean(dim=0), torch.zeros(len(space.matrix)).double(), atol=1e-4, rtol=0)
    covariance = whitened.T @ whitened / count
    torch.testing.assert_close(covariance, torch.eye(len(covariance)).double(), atol=1e-2, rtol=0)
    assert len(space.matrix) == min(width, count - 1)
    assert (space.reads_words, space.width) == (False, len(space.matrix))


def test_shrinkage_keeps_small_directions_small() -> None:
    means = prompts(500, 16).double()
    space = fit_space(means.float(), [], shrinkage=0.05, word_share=0.0)
    variances = torch.linalg.eigvalsh(torch.cov(means.T, correction=0)).flip(0)
    whitened = (means - space.mean.double()) @ space.matrix.double().T
    expected = variances / (variances + 0.05 * variances.mean())
    torch.testing.assert_close(whitened.square().mean(dim=0), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("count", "width"), [(200, 24), (20, 64)])
def test_the_largest_directions_are_kept(count: int, width: int) -> None:
    means = prompts(count, width)
    every, some = (fit_space(means, [], rank=rank, word_share=0.0) for rank in (10**6, 5))
    assert some.matrix.shape == (5, width)
    torch.testing.assert_close(some.matrix.abs(), every.matrix[:5].abs(), atol=1e-5, rtol=1e-4)
    assert torch.equal(some.mean, every.mean)


def test_fresh_prompts_that_all_look_alike_are_told_apart() -> None:
    means, fresh = prompts(600, 24), prompts(40, 24, seed=1)
    space = fit_space(means, [], word_share=0.0)
    plain = torch.nn.functional.normalize(fresh, dim=1)
    fitted = torch.nn.functional.normalize((fresh - space.mean) @ space.matrix.T, dim=1)
    others = ~torch.eye(40, dtype=torch.bool)
    assert (plain @ plain.T)[others].mean() > 0.5
    assert (fitted @ fitted.T)[others].mean().abs() < 0.1


def test_rare_words_weigh_more() -> None:
    said = [("the", f"name{number}") for number in range(99)]
    weights = rarities(said, 1)

    def weight(word: str) -> float:
        [number] = hashed_grams([word], 1)
        return float(weights[(number >> 32) % len(weights)])

    assert weight("never") == pytest.approx(math.log(100))
    assert weight("name3") == pytest.approx(math.log(100 / 2))
    assert weight("the") == pytest.approx(0.05)
    assert torch.equal(weights, rarities(reversed(said), 1))
    space = fit_space(prompts(99, 8), said, word_share=0.5, order=1, word_buckets=128)
    assert torch.equal(space.rarity, weights)
    assert (space.word_share, space.order, space.width) == (0.5, 1, 8 + 128)
