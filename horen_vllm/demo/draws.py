"""Repeatable draws keyed by values: the same key gives the same draw on every Python version."""

import hashlib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def draw(bound: int, *key: str | int) -> int:
    """Return a number in ``[0, bound)`` that depends only on the key.

    Parameters
    ----------
    bound
        Number of outcomes, at least 1.
    *key
        Strings and integers that name the draw; different keys give independent draws.

    Raises
    ------
    ValueError
        If `bound` is below 1.
    """
    if bound < 1:
        message = f"a draw needs at least one outcome, got {bound}"
        raise ValueError(message)
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % bound


def shuffled(items: Iterable[T], *key: str | int) -> tuple[T, ...]:
    """Return the items in an order that depends only on the key and on how many there are."""
    pool = list(items)
    for last in range(len(pool) - 1, 0, -1):
        other = draw(last + 1, *key, last)
        pool[last], pool[other] = pool[other], pool[last]
    return tuple(pool)
