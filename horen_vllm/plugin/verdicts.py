"""Verdicts: what a step decided for its requests, one group of keys or the other, as tensors on the device.

A revision's open entries compete for every request, its anchored ones where their subjects occur, each group under a
threshold of its own. Shapes: B requests, E entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from horen_vllm.core.match import NO_ENTRY, Routed, decide_tensors


@dataclass(frozen=True, slots=True)
class Verdict:
    """Decisions of a batch.

    Attributes
    ----------
    entry
        [B] int64, matched entry or `NO_ENTRY`.
    score
        [B] float32, best score of the group that decided; -inf where nothing competed.
    runner_up, runner_up_score
        [B] int64 and float32, the best other entry of that group; `NO_ENTRY` and -inf when there is none.
    threshold
        [B] float64, what the score had to exceed.
    """

    entry: torch.Tensor
    score: torch.Tensor
    runner_up: torch.Tensor
    runner_up_score: torch.Tensor
    threshold: torch.Tensor

    def columns(self) -> tuple[torch.Tensor, ...]:
        """Return all columns, in the order of the attributes."""
        return self.entry, self.score, self.runner_up, self.runner_up_score, self.threshold


def group_verdict(routed: Routed, bound: float, floors: torch.Tensor | None) -> Verdict:
    """Return the verdict of one group: its match, unless the score is at or below the entry's own floor.

    Parameters
    ----------
    bound
        What a score has to exceed.
    floors
        [E + 1] float64, of each entry; the last one stands for no entry. None where no entry has one.
    """
    threshold = torch.full_like(routed.score, bound, dtype=torch.float64)
    entry = routed.entry
    if floors is not None:
        threshold = torch.maximum(threshold, floors[routed.best])
        entry = torch.where(routed.score.double() > threshold, entry, NO_ENTRY)
    return Verdict(entry, routed.score, routed.runner_up, routed.runner_up_score, threshold)


def joint_verdict(of_open: Verdict, of_anchored: Verdict) -> Verdict:
    """Return the verdict of both groups: an anchored match, else an open one, else of the one that came nearer."""
    # A group without entries has score -inf, which is not nearer than anything.
    nearer = of_anchored.score.double() - of_anchored.threshold > of_open.score.double() - of_open.threshold
    takes = (of_anchored.entry != NO_ENTRY) | ((of_open.entry == NO_ENTRY) & nearer)
    return Verdict(*(torch.where(takes, b, a) for a, b in zip(of_open.columns(), of_anchored.columns(), strict=True)))


def radius_verdict(routed: Routed, radii: torch.Tensor) -> Verdict:
    """Return the verdict of nearest keys (GRACE), of which each entry has a radius of its own.

    Parameters
    ----------
    routed
        Nearest entries, whose scores are ``-distance^2 / 2``.
    radii
        [E + 1] float64; the last one stands for no entry.
    """
    score, runner_up_score = minus_distance(routed.score), minus_distance(routed.runner_up_score)
    threshold = -radii[routed.best]
    entry = torch.where(score.double() > threshold, routed.best, NO_ENTRY)
    return Verdict(entry, score, routed.runner_up, runner_up_score, threshold)


def minus_distance(scores: torch.Tensor) -> torch.Tensor:
    """Return ``-distance`` from ``-distance^2 / 2``; what rounding made positive is no distance at all."""
    return 0.0 - (-2.0 * scores).clamp_min(0.0).sqrt()


def joined(parts: Sequence[Routed]) -> Routed:
    """Return the rows of several batches as one."""
    if len(parts) == 1:
        return parts[0]
    columns = [[getattr(part, field.name) for part in parts] for field in fields(Routed)]
    return Routed(*map(torch.cat, columns))


def best_of(parts: Sequence[tuple[Routed, torch.Tensor, torch.Tensor]], threshold: float) -> Routed:
    """Return one row: the decision of a request whose entries are shared out among several queries.

    Parameters
    ----------
    parts
        (routed [1], entries [n + 1] int64, sequences [n + 1] int64) of each query: its decision among its own n
        entries, what they are called in the revision and their sequence numbers; the last row stands for `NO_ENTRY`.
    threshold
        What the best score has to exceed.
    """
    scores, entries, sequences = [], [], []
    for routed, names, numbers in parts:
        found = torch.cat([routed.best, routed.runner_up])
        scores.append(torch.cat([routed.score, routed.runner_up_score]))
        entries.append(names[found])
        sequences.append(numbers[found])
    known = torch.cat([*entries, torch.full_like(entries[0][:1], NO_ENTRY)])
    chosen = decide_tensors(torch.cat(scores)[None], torch.cat(sequences), threshold)
    return Routed(
        known[chosen.entry], known[chosen.best], chosen.score, known[chosen.runner_up], chosen.runner_up_score
    )


def nothing(like: torch.Tensor) -> Routed:
    """Return decisions for as many rows as `like` [B, ...] (float32) has, with which nothing competed."""
    none = torch.full((like.shape[0],), NO_ENTRY, dtype=torch.int64, device=like.device)
    low = torch.full((like.shape[0],), -torch.inf, device=like.device)
    return Routed(none, none, low, none, low)


def without_nan(routed: Routed) -> Routed:
    """Return decisions in which a score that is not a number is none, and its entry too."""
    score = torch.where(routed.score.isnan(), -torch.inf, routed.score)
    second = torch.where(routed.runner_up_score.isnan(), -torch.inf, routed.runner_up_score)
    best = torch.where(torch.isneginf(score), NO_ENTRY, routed.best)
    runner_up = torch.where(torch.isneginf(second), NO_ENTRY, routed.runner_up)
    return Routed(routed.entry, best, score, runner_up, second)
