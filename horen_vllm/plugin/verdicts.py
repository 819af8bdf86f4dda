"""Verdicts: what a step decided for its requests, one group of keys or the other, as tensors on the device.

A revision's open entries compete for every request, its anchored ones where their subjects occur, each group under a
threshold of its own. Shapes: B requests, E entries.
"""

from collections.abc import Callable, Sequence
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


def group_verdict(routed: Routed, bounds: torch.Tensor, floors: torch.Tensor | None) -> Verdict:
    """Return the verdict of one group: its match, unless the score is at or below the entry's own floor.

    Parameters
    ----------
    bounds
        [B] float64, what a score has to exceed.
    floors
        [B] float64, of each row's best entry; -inf for none. None where no entry has one.
    """
    if floors is None:
        return Verdict(routed.entry, routed.score, routed.runner_up, routed.runner_up_score, bounds)
    threshold = torch.maximum(bounds, floors)
    entry = torch.where(routed.score.double() > threshold, routed.entry, NO_ENTRY)
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
        [B] float64, of each row's nearest entry.
    """
    score, runner_up_score = minus_distance(routed.score), minus_distance(routed.runner_up_score)
    threshold = -radii
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


def rows_of(routed: Routed, rows: slice) -> Routed:
    """Return some rows of a batch."""
    return Routed(*(getattr(routed, field.name)[rows] for field in fields(Routed)))


def joined_verdicts(parts: Sequence[Verdict]) -> Verdict:
    """Return the rows of several verdicts as one."""
    if len(parts) == 1:
        return parts[0]
    return Verdict(*map(torch.cat, zip(*(part.columns() for part in parts), strict=True)))


def best_of(
    routed: Routed, places: torch.Tensor, sequences_of: Callable[[torch.Tensor], torch.Tensor], bounds: torch.Tensor
) -> Routed:
    """Return the decisions [B] of requests whose entries are shared out among several queries each.

    Parameters
    ----------
    routed
        The decision of each query [Q] among its own entries.
    places
        [B, K] int64, the queries of each request; Q where it has no more.
    sequences_of
        Returns the sequence numbers of entries [B, 2K], of which `NO_ENTRY` may be anything.
    bounds
        [B] float64, what the best score has to exceed.
    """
    low, none = routed.score.new_full((1,), -torch.inf), torch.full_like(routed.best[:1], NO_ENTRY)
    scores = torch.cat([torch.cat([each, low])[places] for each in (routed.score, routed.runner_up_score)], dim=1)
    entries = torch.cat([torch.cat([each, none])[places] for each in (routed.best, routed.runner_up)], dim=1)
    chosen = decide_tensors(scores, sequences_of(entries), bounds.float())

    def named(place: torch.Tensor) -> torch.Tensor:
        found = entries.gather(1, place.clamp_min(0)[:, None])[:, 0]
        return torch.where(place == NO_ENTRY, NO_ENTRY, found)

    return Routed(
        named(chosen.entry), named(chosen.best), chosen.score, named(chosen.runner_up), chosen.runner_up_score
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
