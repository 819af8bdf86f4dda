"""Noise: what makes a value carry over to wordings that it was not trained on.

Behind another wording the model is in another state at the answer positions, and its own knowledge pulls another way.
So a value is trained against a cloud of states around those of its contexts: in every step Gaussian noise is added
where the value is, as wide in each dimension as the states themselves are large. It comes in mirrored pairs of rows,
so that the loss is taken on both sides of the true state. Not in the paper.
Shapes: L answer positions, H width of the site's output.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from horen_vllm.editor.forward.clean import CleanRow


@dataclass(frozen=True, slots=True)
class Perturbed:
    """A row and the noise that it is trained under."""

    row: CleanRow
    pair: int
    """Rows with the same number draw the same noise."""
    sign: float
    """1.0 or -1.0: the two rows of a pair are mirrored."""
    spread: torch.Tensor
    """[H] float32: standard deviation in each dimension; zero without noise."""


def perturbed(rows: Sequence[CleanRow], noise: float, chunk: int) -> list[Perturbed]:
    """Return the rows of one edit in mirrored pairs; an odd one out is the first row once more.

    Parameters
    ----------
    rows
        The edit in each of its contexts.
    noise
        Standard deviation relative to the root mean square of the states; 0: none, and the rows as they are.
    chunk
        Answer positions that share one vector. The noise is divided by its square root: a vector that has to be right
        at several positions has less room for being right around them.
    """
    if not noise:
        still = torch.zeros(rows[0].residual.shape[1], device=rows[0].residual.device)
        return [Perturbed(row, 0, 1.0, still) for row in rows]
    states = torch.cat([(row.residual + row.site_output).float() for row in rows])
    spread = noise / chunk**0.5 * states.square().mean(dim=0).sqrt()
    paired = [*rows, rows[0]] if len(rows) % 2 else [*rows]
    return [Perturbed(row, number // 2, (-1.0) ** number, spread) for number, row in enumerate(paired)]


def draw(step: int, pair: int, length: int, width: int) -> torch.Tensor:
    """Return standard normal numbers [L, H] float32 that follow from step and pair alone.

    A longer draw starts with the shorter one, so what is padded beside an edit cannot change its noise.
    """
    numbers = np.random.default_rng([step, pair]).standard_normal((length, width), dtype=np.float32)
    return torch.from_numpy(numbers)
