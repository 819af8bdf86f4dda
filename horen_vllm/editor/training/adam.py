"""Adam for many small independent problems at once, each with a learning rate of its own and free to stop.

The update is elementwise and the problems start together, so each takes the very steps that `torch.optim.Adam` would
take for it alone. Shapes: E problems, n rows, H width.
"""

from typing import Final

import torch

_BETA1: Final = 0.9
_BETA2: Final = 0.999
_EPSILON: Final = 1e-8


class BatchedAdam:
    """Moments of E problems.

    Parameters
    ----------
    values
        [E, n, H] float32; changed in place by every step.
    learning_rates
        [E, n, 1] float32.
    """

    def __init__(self, values: torch.Tensor, learning_rates: torch.Tensor) -> None:
        self._values = values
        self._learning_rates = learning_rates
        self._first = torch.zeros_like(values)
        self._second = torch.zeros_like(values)
        self._steps = 0

    def step(self, gradients: torch.Tensor, moving: torch.Tensor) -> None:
        """Take one step with gradients [E, n, H] for the problems that `moving` [E] marks; the others stay put."""
        self._steps += 1
        self._first.lerp_(gradients, 1.0 - _BETA1)
        self._second.mul_(_BETA2).addcmul_(gradients, gradients, value=1.0 - _BETA2)
        scale = (self._second.sqrt() / (1.0 - _BETA2**self._steps) ** 0.5).add_(_EPSILON)
        rates = self._learning_rates / (1.0 - _BETA1**self._steps) * moving[:, None, None]
        self._values.sub_(rates * self._first / scale)
