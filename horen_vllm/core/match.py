"""Match: refined queries against a codebook's keys, decided by entry (section 2.2 and architecture.md, *Score*).

Shapes: B queries, N keys, E entries, D width.
"""

from dataclasses import dataclass

import torch

from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.refine import Reduce, refine, whole

NO_ENTRY = -1
"""Index that stands for "no entry" in tensors."""


@dataclass(frozen=True, slots=True)
class KeyTable:
    """The keys of one revision and which entry owns each.

    Attributes
    ----------
    keys
        [N, D] float32, unit rows, never refined.
    owners
        [N] int64, index of the entry that each key belongs to, in [0, E).
    sequences
        [E] int64, distinct edit sequence numbers; of equal scores the entry with the higher one wins.
    """

    keys: torch.Tensor
    owners: torch.Tensor
    sequences: torch.Tensor


@dataclass(frozen=True, slots=True)
class Routed:
    """Decisions of a batch as tensors on the keys' device.

    Attributes
    ----------
    entry
        [B] int64, matched entry or `NO_ENTRY`.
    best
        [B] int64, entry with the best score, matched or not; `NO_ENTRY` for an empty table.
    score
        [B] float32, its score; -inf for an empty table.
    runner_up
        [B] int64, best other entry; `NO_ENTRY` when there is none.
    runner_up_score
        [B] float32, -inf when there is none.
    """

    entry: torch.Tensor
    best: torch.Tensor
    score: torch.Tensor
    runner_up: torch.Tensor
    runner_up_score: torch.Tensor


@dataclass(frozen=True, slots=True)
class Decision:
    """One row of `Routed` on the host; None stands for "no entry"."""

    entry: int | None
    score: float
    best: int | None
    runner_up: int | None
    runner_up_score: float


def entry_scores(
    queries_BD: torch.Tensor, table: KeyTable, parameters: MethodParameters, reduce: Reduce = whole
) -> torch.Tensor:
    """Return each entry's best score [B, E] for unit queries [B, D] (float32), after refinement."""
    refined_BD = refine(
        queries_BD,
        table.keys,
        beta=parameters.beta,
        gamma=parameters.gamma,
        steps=parameters.steps,
        epsilon=parameters.epsilon,
        reduce=reduce,
    )
    scores_BN = reduce(refined_BD @ table.keys.T)
    scores_BE = scores_BN.new_full((scores_BN.shape[0], table.sequences.shape[0]), -torch.inf)
    return scores_BE.scatter_reduce_(1, table.owners.expand_as(scores_BN), scores_BN, reduce="amax")


def route_tensors(
    queries_BD: torch.Tensor, table: KeyTable, parameters: MethodParameters, reduce: Reduce = whole
) -> Routed:
    """Route unit queries [B, D] (float32) through the table without reading anything back to the host.

    A row matches when its best entry's score, after refinement, is greater than the threshold. Where the width is
    sharded, every rank must call it alike, and `reduce` sums over them.
    """
    if table.sequences.shape[0] == 0:
        return _nothing(queries_BD)
    scores_BE = entry_scores(queries_BD, table, parameters, reduce)
    return decide_tensors(scores_BE, table.sequences, parameters.threshold)


def decide_tensors(scores_BE: torch.Tensor, sequences_E: torch.Tensor, threshold: float | torch.Tensor) -> Routed:
    """Decide from each entry's best score [B, E], E >= 1; `scores_BE` is used up.

    Rows may have sequence numbers [B, E] and thresholds [B] float32 of their own.
    """
    best, score = _best_entry(scores_BE, sequences_E)
    scores_BE.scatter_(1, best[:, None], -torch.inf)
    runner_up, runner_up_score = _best_entry(scores_BE, sequences_E)
    entry = torch.where(score > threshold, best, NO_ENTRY)
    runner_up = torch.where(torch.isneginf(runner_up_score), NO_ENTRY, runner_up)
    return Routed(entry, best, score, runner_up, runner_up_score)


def route(queries_BD: torch.Tensor, table: KeyTable, parameters: MethodParameters) -> list[Decision]:
    """Route unit queries [B, D] and return one `Decision` a row; waits for the device."""
    routed = route_tensors(queries_BD, table, parameters)
    return decisions(routed)


def decisions(routed: Routed) -> list[Decision]:
    """Read a routed batch back to the host."""
    columns = (
        routed.entry.tolist(),
        routed.score.tolist(),
        routed.best.tolist(),
        routed.runner_up.tolist(),
        routed.runner_up_score.tolist(),
    )
    return [
        Decision(_index(entry), score, _index(best), _index(second), second_score)
        for entry, score, best, second, second_score in zip(*columns, strict=True)
    ]


def _best_entry(scores_BE: torch.Tensor, sequences_E: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    score_B1 = scores_BE.amax(dim=1, keepdim=True)
    # Sequences are distinct, so the arg-max is unique even where scores tie exactly.
    rank_BE = torch.where(scores_BE == score_B1, sequences_E, torch.iinfo(torch.int64).min)
    return rank_BE.argmax(dim=1), score_B1[:, 0]


def _nothing(queries_BD: torch.Tensor) -> Routed:
    count = queries_BD.shape[0]
    none_B = torch.full((count,), NO_ENTRY, dtype=torch.int64, device=queries_BD.device)
    low_B = torch.full((count,), -torch.inf, device=queries_BD.device)
    return Routed(none_B, none_B, low_B, none_B, low_B)


def _index(value: int) -> int | None:
    return None if value == NO_ENTRY else value
