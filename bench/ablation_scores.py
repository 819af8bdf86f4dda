"""From keys and queries to recall and false fires: what every section of `bench.ablations` measures.

Shapes: B queries, N keys, E entries, W width of a key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch

from horen_vllm.core.euclid import lifted_key, lifted_query
from horen_vllm.core.match import decide_tensors
from horen_vllm.core.refine import attractor, refine
from horen_vllm.editor.calibration.measures import wilson

NEAR_RATE: Final = 0.05
ASKED: Final = ("rephrase", "fire", "near", "unrelated")
_EPSILON: Final = 1e-5

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From queries [B, W] and keys [N, W] to scores [B, N], higher for what is more alike."""


@dataclass(frozen=True, slots=True)
class Count:
    """A share as it was counted."""

    hits: int
    of: int


Measures = dict[str, Count | float]


@dataclass(frozen=True, slots=True)
class Routing:
    """Keys [N, W] of E entries, `owners` [N], and the queries [B, W] of each kind in `ASKED`."""

    keys: torch.Tensor
    owners: torch.Tensor
    asked: Mapping[str, torch.Tensor]

    def entry_scores(self, kind: str, score: Score) -> torch.Tensor:
        """Return each entry's best score [B, E]."""
        scores_BN = score(self.asked[kind], self.keys).float()
        scores_BE = scores_BN.new_full((len(scores_BN), int(self.owners.max()) + 1), -torch.inf)
        return scores_BE.scatter_reduce_(1, self.owners.expand_as(scores_BN), scores_BN, reduce="amax")

    def scores(self, score: Score) -> "Scores":
        """Route everything."""
        found = {kind: best_of(self.entry_scores(kind, score)) for kind in ASKED}
        best = found["rephrase"][1]
        return Scores(best == torch.arange(len(best)), *(found[kind][0] for kind in ASKED))


@dataclass(frozen=True, slots=True)
class Scores:
    """The best score [B] of each question, by kind, and whether a rephrase's best entry is its own."""

    right: torch.Tensor
    rephrase: torch.Tensor
    fire: torch.Tensor
    near: torch.Tensor
    unrelated: torch.Tensor


def best_of(scores_BE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return score and number [B] of the entry that would fire: of equal scores the newest."""
    routed = decide_tensors(scores_BE, torch.arange(scores_BE.shape[1]), 0.0)
    return routed.score, routed.best


def product(queries_BW: torch.Tensor, keys_NW: torch.Tensor) -> torch.Tensor:
    """Score by the scalar product: of unit rows, the cosine."""
    return queries_BW @ keys_NW.T


def refined(beta: float, gamma: float, steps: int) -> Score:
    """Score by the cosine after damped Hopfield steps."""
    moved = partial(refine, beta=beta, gamma=gamma, steps=steps, epsilon=_EPSILON)
    return lambda queries_BW, keys_NW: product(moved(queries_BW, keys_NW), keys_NW)


def euclid(queries_BW: torch.Tensor, keys_NW: torch.Tensor) -> torch.Tensor:
    """Score by the negative Euclidean distance, as GRACE does."""
    halves_BN = product(lifted_query(queries_BW), lifted_key(keys_NW))
    return -(-2.0 * halves_BN).clamp_min(0.0).sqrt()


def unnormalised(beta: float, gamma: float, score: Score = euclid) -> Score:
    """Score after one damped Hopfield step without any normalisation (table 11)."""

    def scores(queries_BW: torch.Tensor, keys_NW: torch.Tensor) -> torch.Tensor:
        return score((1 - gamma) * queries_BW + gamma * attractor(queries_BW, keys_NW, beta), keys_NW)

    return scores


def half_scores(queries_BW: torch.Tensor, keys_NW: torch.Tensor) -> torch.Tensor:
    """Score by the scalar product in bfloat16."""
    return product(queries_BW.bfloat16(), keys_NW.bfloat16())


def measure(scores: Scores, fixed: Mapping[str, float] | None = None) -> Measures:
    """Return everything at the threshold that is fitted on other near questions, and at `fixed` ones by name."""
    limit = limit_at(scores.fire, NEAR_RATE)
    found: Measures = {"threshold": limit, **_fires(scores, limit)}
    found |= {f"recall_at_{round(rate * 100)}": _right(scores, limit_at(scores.near, rate)) for rate in (0.01, 0.05)}
    found |= {"auc": auc(scores.rephrase, scores.near), "top_1": counted(scores.right)}
    for name, at in (fixed or {}).items():
        found |= {f"{key}_{name}": share for key, share in _fires(scores, at).items()}
    return found


def limit_at(scores_B: torch.Tensor, rate: float) -> float:
    """Return the least threshold that at most the share `rate` of the scores is above."""
    return float(scores_B.topk(int(rate * len(scores_B)) + 1).values[-1])


def auc(own_B: torch.Tensor, other_B: torch.Tensor) -> float:
    """Return how often one of our own scores is above one of the others; ties count half."""
    ordered = other_B.sort().values
    below = torch.searchsorted(ordered, own_B) + torch.searchsorted(ordered, own_B, right=True)
    return float(below.double().mean()) / (2 * len(ordered))


def counted(holds_B: torch.Tensor) -> Count:
    """Return the share of True."""
    return Count(int(holds_B.sum()), len(holds_B))


def _right(scores: Scores, limit: float) -> Count:
    return counted(scores.right & (scores.rephrase > limit))


def _fires(scores: Scores, limit: float) -> dict[str, Count | float]:
    return {
        "recall": _right(scores, limit),
        "near": counted(scores.near > limit),
        "unrelated": counted(scores.unrelated > limit),
    }


def pooled(draws: Sequence[Measures]) -> dict[str, Any]:
    """Return counts of all draws together, with 95 % Wilson intervals, and the mean of everything else."""
    return {name: _pooled([draw[name] for draw in draws]) for name in draws[0]}


def _pooled(values: Sequence[Count | float]) -> Any:
    counts = [value for value in values if isinstance(value, Count)]
    if not counts:
        return round(sum(value for value in values if not isinstance(value, Count)) / len(values), 6)
    hits, of = sum(count.hits for count in counts), sum(count.of for count in counts)
    low, high = wilson(hits / of, of)
    return {"share": round(hits / of, 4), "interval": [round(low, 4), round(high, 4)], "of": of}
