"""Token-wise measures of the paper (arXiv 2605.08143, appendix D.3) and the stricter locality beside them.

All compare token ids, never texts that were tokenised again.
"""

from collections.abc import Sequence
from math import prod


def token_accuracy(target_ids: Sequence[int], generated_ids: Sequence[int]) -> float:
    """Return the share of the target's tokens that were generated in their place: m(y, y') of equation 11.

    Parameters
    ----------
    target_ids
        The L >= 1 tokens of the target.
    generated_ids
        What was generated; tokens beyond the L-th do not count, missing ones count as wrong.
    """
    if not target_ids:
        raise ValueError("a target has at least one token.")
    right = sum(wanted == got for wanted, got in zip(target_ids, generated_ids, strict=False))
    return right / len(target_ids)


def last_tokens_kept(
    base: tuple[Sequence[int], Sequence[int]], edited: tuple[Sequence[int], Sequence[int]], length: int
) -> float:
    """Return the share of the last `length` tokens of the full sequence that are the base model's: equation 14.

    A full sequence is the prompt and what was generated, so an answer that ends early is compared in part by its
    prompt, which is equal by construction: read it beside `generated_kept`.

    Parameters
    ----------
    base, edited
        Token ids of the prompt and of what was generated, by the unedited and by the edited model.
    length
        Tokens of the question's true answer, at least 1.
    """
    if length < 1:
        raise ValueError("locality compares at least one token.")
    ours, theirs = ([*prompt, *generated][-length:] for prompt, generated in (edited, base))
    # A sequence shorter than `length` is a prompt shorter than that; what one of them lacks is a difference.
    compared = max(len(ours), len(theirs), 1)
    return sum(one == other for one, other in zip(ours, theirs, strict=False)) / compared


def generated_kept(base_ids: Sequence[int], edited_ids: Sequence[int], length: int | None = None) -> float:
    """Return the share of the generated positions that are the base model's; a missing token is a difference.

    Parameters
    ----------
    length
        Positions compared at most; None for all.
    """
    ours, theirs = edited_ids[:length], base_ids[:length]
    compared = max(len(ours), len(theirs))
    if not compared:
        return 1.0
    return sum(one == other for one, other in zip(ours, theirs, strict=False)) / compared


def overall(reliability: float, generalisation: float, locality: float) -> float:
    """Return the paper's overall performance (OP), the geometric mean of the three."""
    return float(prod((reliability, generalisation, locality)) ** (1 / 3))
