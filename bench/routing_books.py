"""Keys and queries for the benchmarks of routing: made ones, and those of a real model's prompts."""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn import functional as F

from horen_vllm.plugin.key_buffer import KeyBuffer

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Kind:
    """What the keys of a space are like.

    Attributes
    ----------
    width
        Of a key.
    share
        Mean cosine of two keys.
    """

    name: str
    width: int
    share: float


RAW: Final = Kind("raw", 14336, 0.6)
WHITENED: Final = Kind("whitened", 1024, 0.0)
WIDE: Final = (Kind("raw-18944", 18944, 0.6), Kind("raw-27648", 27648, 0.6))
"""Wider than a GPU's program holds whole: the inputs of Qwen2.5 7B's and 32B's ``down_proj``."""
KINDS: Final = {kind.name: kind for kind in (RAW, WHITENED, *WIDE)}
NEAR, FAR = 0.95, 0.6
"""Cosines of a query that matches at these methods' threshold to its key, and of one that does not."""
METHODS: Final[dict[str, dict[str, Any]]] = {
    "cosine": {"beta": 20.0, "gamma": 0.0, "steps": 0, "epsilon": 1e-5, "threshold": 0.85},
    "horen-paper": {"beta": 20.0, "gamma": 0.01, "steps": 1, "epsilon": 1e-5, "threshold": 0.85},
    "horen-reference": {"beta": 20.0, "gamma": 0.1, "steps": 1, "epsilon": 1e-5, "threshold": 0.85},
}


def forms_of(method: str) -> dict[str, dict[str, Any]]:
    """Return the forms of route that a method has, by the names that rows give them, with what `dispatch.route` takes.

    The second decides by first scores where they are certain.
    """
    rule = METHODS[method]
    forms = {method: rule}
    if rule["steps"]:
        forms[f"{method}, first scores"] = {**rule, "sure_above": rule["threshold"]}
    return forms


@dataclass(frozen=True, slots=True)
class Keys:
    """A revision that fills a buffer in order, one key an entry."""

    buffer: torch.Tensor
    numbers: torch.Tensor

    @property
    def bytes(self) -> int:
        """Bytes of all keys."""
        return self.buffer.numel() * self.buffer.element_size()


def made_keys(kind: Kind, count: int, device: str, seed: int = 1) -> Keys:
    """Return unit keys with the mean cosine of their kind, in a server's buffer."""
    generator = torch.Generator(device).manual_seed(seed)
    common = F.normalize(torch.randn(kind.width, generator=generator, device=device), dim=0)
    buffer = KeyBuffer(count * kind.width, torch.device(device)).rows(kind.width).normal_(generator=generator)
    for rows in torch.split(buffer, 4096):
        rows.copy_(F.normalize(kind.share**0.5 * common + (1.0 - kind.share) ** 0.5 * F.normalize(rows, dim=1), dim=1))
    return Keys(buffer, torch.arange(count, device=device))


def near_queries(keys: Keys, count: int, cosine: float, seed: int) -> torch.Tensor:
    """Return unit queries [count, D], each at about this cosine of a key."""
    generator = torch.Generator(keys.buffer.device).manual_seed(seed)
    device = keys.buffer.device
    chosen = keys.buffer[torch.randint(len(keys.numbers), (count,), generator=generator, device=device)]
    noise = F.normalize(torch.randn(chosen.shape, generator=generator, device=device), dim=1)
    return F.normalize(cosine * chosen + (1.0 - cosine**2) ** 0.5 * noise, dim=1)
