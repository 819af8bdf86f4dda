"""Sections of `bench.ablations` about the paper's rule: refinement, normalisation, pooling, and numbers in bfloat16."""

from collections.abc import Iterator
from typing import Final

import torch
from torch.nn import functional as F

from bench.ablation_features import BASE, LAST, PAPER, PLAIN, Features
from bench.ablation_keyer import IDENTITY, JOINED, WHITENED, Keyer, Row, spaces
from bench.ablation_scores import (
    ASKED,
    NEAR_RATE,
    Measures,
    Routing,
    Score,
    best_of,
    counted,
    euclid,
    half_scores,
    limit_at,
    measure,
    product,
    refined,
    unnormalised,
)

BETA: Final = 20.0
STEPS: Final = tuple(range(9))
GAMMAS: Final = (0.001, 0.01, 0.05, 0.1, 0.3)
BETAS: Final = (1.0, 5.0, 20.0, 50.0, 100.0)
PUBLISHED: Final = 0.85
"""The paper's c for most of its models."""
RADIUS: Final = 1.0
"""GRACE's first deferral radius."""


def raw(features: Features, way: str) -> Routing:
    """Return the averages themselves: one key an edit, nothing normalised."""
    asked = {kind: features[kind].means[PLAIN, way] for kind in ASKED}
    return Routing(features["entry"].means[PLAIN, way], features["entry"].numbers, asked)


def unit(features: Features, way: str) -> Routing:
    """Return the paper's keys and queries: one key an edit, in the identity space."""
    found = raw(features, way)
    return Routing(
        F.normalize(found.keys, dim=1), found.owners, {kind: F.normalize(x, dim=1) for kind, x in found.asked.items()}
    )


def steps(features: Features) -> Iterator[Row]:
    """Measure the number of steps, at thresholds that stay and at one that is fitted again."""
    keyer = Keyer(features)
    routings = {IDENTITY: unit(features, PAPER), WHITENED: keyer.routing(spaces(keyer, BASE)[WHITENED])}
    for name, gamma in (IDENTITY, 0.01), (IDENTITY, 0.1), (WHITENED, 0.1):
        for count in STEPS:
            yield f"{name}, gamma {gamma}", count, _at(routings[name], refined(BETA, gamma, count))


def damping(features: Features) -> Iterator[Row]:
    """Measure one step of different size and sharpness."""
    routing = unit(features, PAPER)
    yield "none", 0.0, _at(routing, product)
    for gamma in GAMMAS:
        yield f"gamma, beta {BETA:g}", gamma, _at(routing, refined(BETA, gamma, 1))
    for gamma in (0.01, 0.1):
        for beta in BETAS:
            yield f"beta, gamma {gamma}", beta, _at(routing, refined(beta, gamma, 1))


def ingredients(features: Features) -> Iterator[Row]:
    """Measure the ingredients of tables 10 and 11 one by one."""
    for name, way in ("last token", LAST), ("pooled", PAPER):
        normal, plain = unit(features, way), raw(features, way)
        yield name, "cosine", _at(normal, product)
        for gamma in (0.01, 0.1):
            yield name, f"cosine, a step of {gamma}", _at(normal, refined(BETA, gamma, 1))
        for score, kind, published in (euclid, "Euclidean distance", -RADIUS), (product, "product", None):
            yield name, f"{kind}, not normalised", _at(plain, score, score, published)
            for gamma in (0.01, 0.1):
                step = unnormalised(BETA, gamma, score)
                yield name, f"{kind}, not normalised, a step of {gamma}", _at(plain, step, score, published)


def _at(routing: Routing, score: Score, before: Score = product, published: float | None = PUBLISHED) -> Measures:
    """Return everything, also at the threshold that is fitted without a step, and at the published one."""
    same = limit_at(routing.scores(before).fire, NEAR_RATE)
    return measure(
        routing.scores(score), {"same_c": same} if published is None else {"same_c": same, "published_c": published}
    )


def precision(features: Features) -> Iterator[Row]:
    """Measure what bfloat16 does to scores, beside what a step does to them."""
    keyer = Keyer(features)
    joined = keyer.routing(spaces(keyer, BASE)[JOINED])
    for name, routing in (IDENTITY, unit(features, PAPER)), (JOINED, joined):
        rounded = Routing(_half(routing.keys), routing.owners, {kind: _half(x) for kind, x in routing.asked.items()})
        exact = routing.entry_scores("rephrase", product)
        yield name, "float32", _against(exact, routing, product)
        yield name, "keys and queries in bfloat16", _against(exact, rounded, product)
        yield name, "scores in bfloat16, too", _against(exact, routing, half_scores)
        yield name, "float32, a step of 0.01", _against(exact, routing, refined(BETA, 0.01, 1))
        yield name, "float32, a step of 0.1", _against(exact, routing, refined(BETA, 0.1, 1))


def _half(rows: torch.Tensor) -> torch.Tensor:
    return rows.bfloat16().float()


def _against(exact_BE: torch.Tensor, routing: Routing, score: Score) -> Measures:
    """Return how the rephrases' scores differ from exact ones, and everything else."""
    scores_BE = routing.entry_scores("rephrase", score)
    off_BE, off_best_B = scores_BE - exact_BE, scores_BE.amax(dim=1) - exact_BE.amax(dim=1)
    tied_B = (scores_BE == scores_BE.amax(dim=1, keepdim=True)).sum(dim=1) > 1
    # What picks entries uses the scores up.
    best_B, exact_best_B = best_of(scores_BE)[1], best_of(exact_BE.clone())[1]
    return measure(routing.scores(score)) | {
        "error_rms": _rms(off_BE),
        "error_max": float(off_BE.abs().max()),
        "best_error_rms": _rms(off_best_B),
        "other_best": counted(best_B != exact_best_B),
        "ties": counted(tied_B),
    }


def _rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())
