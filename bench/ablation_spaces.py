"""Sections of `bench.ablations` about spaces: what is pooled, at which layer, and what the fit needs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from bench.ablation_features import PERCENTS, PLAIN, Features
from bench.ablation_keyer import BACKGROUND, BOTH, JOINED, WHITENED, Keyer, Row, spaces, without_words
from bench.ablation_scores import Measures, measure, product
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.editor.calibration.fitting import SHRINKAGE, WORD_BUCKETS

RANKS: Final = (64, 128, 256, 512, 1024)
SHRINKAGES: Final = (0.01, SHRINKAGE, 0.1, 0.3, 1.0, 3.0, 10.0)
SIZES: Final = (75, 150, 300, 600, 1200)
SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The last one: words alone."""
BUCKETS: Final = (256, WORD_BUCKETS, 4096, 16384)
ORDERS: Final = (1, 2, 3)


def pooling(features: Features) -> Iterator[Row]:
    """Measure every pooled share of the content."""
    keyer = Keyer(features)
    for percent in PERCENTS:
        yield from _in_spaces(keyer, f"content {percent}", percent)


def sites(features: Features) -> Iterator[Row]:
    """Measure every layer as the edit site."""
    keyer = Keyer(features)
    layers = [way for form, way in features["entry"].means if form == PLAIN and way.startswith("layer ")]
    for layer, way in enumerate(layers):
        yield from _in_spaces(keyer, way, layer)


def _in_spaces(keyer: Keyer, way: str, x: float) -> Iterator[Row]:
    for name, space in spaces(keyer, way).items():
        yield name, x, measure(keyer.routing(space, way).scores(product))


def fitted(features: Features) -> Iterator[Row]:
    """Measure what the fit is made of: rank, shrinkage, background, words and forms."""
    keyer = Keyer(features)
    yield from _dense(keyer)
    yield from _background(keyer)
    yield from _words(keyer)
    yield from _forms(keyer)


def _dense(keyer: Keyer) -> Iterator[Row]:
    joined = keyer.fit()
    width = joined.mean.shape[0]
    for rank in [rank for rank in RANKS if rank < width] + [width]:
        space = replace(joined, matrix=keyer.fit(rank=rank, word_share=0.0).matrix)
        yield from _with_and_without(keyer, "rank", rank, space)
    for shrinkage in SHRINKAGES:
        space = replace(joined, matrix=keyer.fit(shrinkage=shrinkage, word_share=0.0).matrix)
        yield from _with_and_without(keyer, "shrinkage", shrinkage, space)


def _background(keyer: Keyer) -> Iterator[Row]:
    total = sum(len(keyer.features[kind].words) for kind in BACKGROUND)
    for prompts in [prompts for prompts in SIZES if prompts < total] + [total]:
        yield from _with_and_without(keyer, "background prompts", prompts, keyer.fit(prompts=prompts))
    for kinds, name in (BACKGROUND[:1], "near"), (BACKGROUND[1:], "unrelated"), (BACKGROUND, "both"):
        space = keyer.fit(kinds=kinds, prompts=total // 2)
        yield from _with_and_without(keyer, "kind of background", f"{name}, {total // 2} prompts", space)
    built_in = f"built-in, {len(keyer.features['builtin'].words)} prompts"
    yield from _with_and_without(keyer, "kind of background", built_in, keyer.fit(kinds=("builtin",)))


def _words(keyer: Keyer) -> Iterator[Row]:
    joined = keyer.fit()
    for share in SHARES:
        space = replace(joined, word_share=share) if share else without_words(joined)
        yield "word share", share, _measured(keyer, space)
    for order in ORDERS:
        joined = keyer.fit(order=order)
        for buckets in BUCKETS:
            space = replace(joined, word_buckets=buckets)
            yield f"word buckets, {WHITENED} + {order}-grams", buckets, _measured(keyer, space)
            yield f"word buckets, {order}-grams alone", buckets, _measured(keyer, replace(space, word_share=1.0))


def _forms(keyer: Keyer) -> Iterator[Row]:
    """Fit, and key, in one form or both; ask in each."""
    for asked in keyer.forms("rephrase"):
        for fit in (BOTH[:1], BOTH):
            space = without_words(keyer.fit(forms=fit))
            for keys in (BOTH[:1], BOTH):
                name = f"fitted on {' + '.join(fit)}, keyed by {' + '.join(keys)}"
                scores = keyer.routing(space, forms=keys, asked=asked).scores(product)
                yield f"forms, {asked} asked", name, measure(scores)


def _measured(keyer: Keyer, space: RoutingSpace) -> Measures:
    return measure(keyer.routing(space).scores(product))


def _with_and_without(keyer: Keyer, series: str, x: float | str, space: RoutingSpace) -> Iterator[Row]:
    yield f"{series}, {WHITENED}", x, _measured(keyer, without_words(space))
    yield f"{series}, {JOINED}", x, _measured(keyer, space)
