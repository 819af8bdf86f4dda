"""Section of `bench.ablations` about subjects: does a key without the subject's tokens know what is asked of it?

Shapes: B queries, N keys of E entries in F forms.
"""

from collections.abc import Iterator
from math import ceil
from typing import Final

import torch

from bench.ablation_features import MASKED, PLAIN, Features
from bench.ablation_keyer import Keyer, Row, spaces
from bench.ablation_scores import Measures, auc, counted
from horen_vllm.core.routing import RoutingSpace

RECALLS: Final = (0.8, 0.9, 0.95)


def masks(features: Features) -> Iterator[Row]:
    """Measure entries that compete where their subject occurs, with its tokens and words and without them."""
    keyer = Keyer(features)
    for percent in MASKED:
        for name, space in spaces(keyer, f"content {percent}").items():
            for masked in (False, True):
                way = f"masked {percent}" if masked else f"content {percent}"
                series = f"{name}, {percent} % pooled"
                yield series, "masked" if masked else "whole", _measured(keyer, space, way, masked=masked)


def _measured(keyer: Keyer, space: RoutingSpace | None, way: str, *, masked: bool) -> Measures:
    own = _own_scores(keyer, "rephrase", space, way, masked=masked)
    other = _own_scores(keyer, "other", space, way, masked=masked)
    found: Measures = {"auc": auc(own, other)}
    for recall in RECALLS:
        limit = own.sort(descending=True).values[ceil(recall * len(own)) - 1]
        # A rephrase that does not name the subject finds nothing, at whatever threshold.
        fires = other >= limit if bool(limit.isfinite()) else torch.ones_like(other, dtype=torch.bool)
        found[f"fires_at_{round(100 * recall)}"] = counted(fires)
    return found


def _own_scores(keyer: Keyer, kind: str, space: RoutingSpace | None, way: str, *, masked: bool) -> torch.Tensor:
    """Return the score [B] of each text with the entry on its subject; -inf where the text does not name it."""
    asked = keyer.features[kind]
    queries_BW = keyer.queries(kind, space, way, form=PLAIN, masked=masked)
    keys_NW, owners = keyer.keys(space, way, masked=masked)
    keys_FEW = keys_NW.view(-1, int(owners.max()) + 1, keys_NW.shape[1])
    scores_FB = (keys_FEW[:, asked.numbers] * queries_BW).sum(dim=-1)
    return torch.where(asked.named, scores_FB.amax(dim=0), -torch.inf)
