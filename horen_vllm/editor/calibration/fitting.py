"""Fitting a routing space: the mean and the whitening of background prompts, and how rare their words are.

Shapes: N contexts, D width of the site's input, r width of the space, R hashes of words.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final

import torch

from horen_vllm.core.routing import RoutingSpace, hashed_grams

MOST_DIMENSIONS: Final = 1024
"""Largest r: wider sites are projected to their first principal directions."""
SHRINKAGE: Final = 0.05
"""Share of the mean variance that is added to the variance of every direction."""
WORD_BUCKETS: Final = 1024
WORD_SHARE: Final = 0.3
WORD_ORDER: Final = 1
"""Single words: on the models that were measured longer n-grams encode how a question is put, not what it asks."""
_RARITIES: Final = 1 << 16
"""Hashes that n-grams are counted by."""
_LEAST_RARITY: Final = 0.05


def fit_space(
    means_ND: torch.Tensor,
    words: Sequence[Sequence[str]],
    *,
    rank: int = MOST_DIMENSIONS,
    shrinkage: float = SHRINKAGE,
    word_share: float = WORD_SHARE,
    word_buckets: int = WORD_BUCKETS,
    order: int = WORD_ORDER,
) -> RoutingSpace:
    """Return the space in which these prompts are spread evenly.

    Parameters
    ----------
    means_ND
        [N, D] averaged site inputs of background prompts, N >= 2.
    words
        The words of each prompt; read when `word_share` is not 0.
    rank
        Most directions that are kept, those of largest variance.
    """
    mean_D = means_ND.double().mean(dim=0)
    variances_r, directions_rD = _principal(means_ND.double() - mean_D, min(rank, means_ND.shape[1]))
    trace = float((means_ND.double() - mean_D).square().sum()) / len(means_ND)
    floor = shrinkage * trace / means_ND.shape[1]
    matrix_rD = directions_rD / (variances_r + floor).sqrt()[:, None]
    rarity_R = rarities(words, order) if word_share else torch.empty(0)
    return RoutingSpace(
        mean_D.float(),
        matrix_rD.float().contiguous(),
        rarity_R,
        word_share,
        order,
        word_buckets if word_share else 0,
    )


def rarities(words: Iterable[Sequence[str]], order: int) -> torch.Tensor:
    """Return the weight [R] of each word n-gram by its hash: the logarithm of how few prompts have it."""
    found_R = torch.zeros(_RARITIES)
    prompts = 0
    for said in words:
        prompts += 1
        for slot in {(number >> 32) % _RARITIES for number in hashed_grams(said, order)}:
            found_R[slot] += 1
    return (math.log(prompts + 1) - (found_R + 1).log()).clamp_min(_LEAST_RARITY)


def _principal(centred_ND: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest variances [r], descending, and their directions [r, D], unit rows."""
    count, width = centred_ND.shape
    if width <= count:
        variances, columns = torch.linalg.eigh(centred_ND.T @ centred_ND / count)
        return variances[-rank:].flip(0).clamp_min(0.0), columns[:, -rank:].flip(1).T
    # Fewer prompts than columns: the same directions from the smaller product, and no others have any variance.
    variances, columns = torch.linalg.eigh(centred_ND @ centred_ND.T / count)
    kept = min(rank, int((variances > variances[-1] * 1e-9).sum()))
    directions = torch.nn.functional.normalize(columns[:, -kept:].flip(1).T @ centred_ND, dim=1)
    return variances[-kept:].flip(0).clamp_min(0.0), directions
