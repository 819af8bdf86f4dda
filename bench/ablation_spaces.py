"""Sections of `bench.ablations` about spaces: what is pooled and where, what the fit needs, and the subject's mask."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch.nn import functional as F

from bench.ablation_features import BASE, CHAT, PERCENTS, PLAIN, Features
from bench.ablation_scores import ASKED, Measures, Routing, measure, product
from horen_vllm.core.routing import RoutingSpace, joined_queries, unit_queries, word_vector
from horen_vllm.editor.calibration.fitting import MOST_DIMENSIONS, SHRINKAGE, WORD_BUCKETS, fit_space

Row = tuple[str, float | str, Measures]
"""Series, what varies within it, and what was measured."""
BOTH: Final = (PLAIN, CHAT)
BACKGROUND: Final = ("fit_near", "fit_unrelated")
IDENTITY, WHITENED, JOINED = "identity", "whitened", "whitened + words"
RANKS: Final = (64, 128, 256, MOST_DIMENSIONS)
SHRINKAGES: Final = (0.01, SHRINKAGE, 0.1, 0.3, 1.0, 3.0, 10.0)
SIZES: Final = (75, 150, 300, 600, 1200)
SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BUCKETS: Final = (256, WORD_BUCKETS, 4096)
ORDERS: Final = (1, 2, 3)
RECALLS: Final = (0.8, 0.9, 0.95)


class Keyer:
    """Makes keys and queries of one draw; the words' part is made once for each way to count them."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self._counts: dict[tuple[str, bool, int, int], torch.Tensor] = {}

    def fit(
        self,
        way: str = BASE,
        *,
        kinds: Sequence[str] = BACKGROUND,
        forms: Sequence[str] = BOTH,
        prompts: int | None = None,
        **options: Any,
    ) -> RoutingSpace:
        """Fit a space on `prompts` prompts (all, when None), as many of each kind."""
        stop = None if prompts is None else prompts // len(kinds)
        parts = [(kind, form) for kind in kinds for form in self._forms(kind, forms)]
        means = torch.cat([self.features[kind].means[form, way][:stop] for kind, form in parts])
        return fit_space(means, [words for kind, _ in parts for words in self.features[kind].words[:stop]], **options)

    def routing(
        self, space: RoutingSpace | None, way: str = BASE, *, forms: Sequence[str] = BOTH, asked: str = PLAIN
    ) -> Routing:
        """Return the keys of the edits in all forms, and the queries in the form that is asked."""
        keys, owners = self.keys(space, way, forms=forms)
        return Routing(keys, owners, {kind: self.queries(kind, space, way, form=asked) for kind in ASKED})

    def keys(
        self, space: RoutingSpace | None, way: str, *, forms: Sequence[str] = BOTH, masked: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and their owners."""
        shown = self._forms("entry", forms)
        keys = torch.cat([self.queries("entry", space, way, form=form, masked=masked) for form in shown])
        return keys, self.features["entry"].numbers.repeat(len(shown))

    def queries(
        self, kind: str, space: RoutingSpace | None, way: str, *, form: str = PLAIN, masked: bool = False
    ) -> torch.Tensor:
        """Return unit queries [N, W]; `masked` leaves the subject out of the words."""
        means = self.features[kind].means[form, way]
        dense = unit_queries(means, torch.ones(len(means)), space)
        if space is None or not space.reads_words:
            return dense
        said = F.normalize(self._counted(kind, space, masked=masked) * space.rarity, dim=1)
        return joined_queries(dense, said, space.word_share)

    def _counted(self, kind: str, space: RoutingSpace, *, masked: bool) -> torch.Tensor:
        """Return unweighted word vectors, which only their weights would make those of a space."""
        name = (kind, masked, len(space.rarity), space.order)
        if name not in self._counts:
            flat = replace(space, rarity=torch.ones_like(space.rarity))
            words = self.features[kind].kept_words if masked else self.features[kind].words
            self._counts[name] = torch.stack([word_vector(said, flat) for said in words])
        return self._counts[name]

    def _forms(self, kind: str, forms: Sequence[str]) -> list[str]:
        return [form for form in forms if (form, BASE) in self.features[kind].means]


def without_words(space: RoutingSpace) -> RoutingSpace:
    """Return a space's dense part."""
    return replace(space, rarity=torch.empty(0), word_share=0.0)


def spaces(keyer: Keyer, way: str) -> dict[str, RoutingSpace | None]:
    """Return the three spaces that are compared, fitted on one way to average."""
    joined = keyer.fit(way)
    return {IDENTITY: None, WHITENED: without_words(joined), JOINED: joined}


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
    joined = keyer.fit()
    width, size = joined.matrix.shape[1], sum(len(features[kind].words) for kind in BACKGROUND)
    for rank in [rank for rank in RANKS if rank < width] + [width]:
        yield from _with_and_without(keyer, "rank", rank, keyer.fit(rank=rank))
    for shrinkage in SHRINKAGES:
        yield from _with_and_without(keyer, "shrinkage", shrinkage, keyer.fit(shrinkage=shrinkage))
    for prompts in [prompts for prompts in SIZES if prompts < size] + [size]:
        yield from _with_and_without(keyer, "background prompts", prompts, keyer.fit(prompts=prompts))
    for kinds in (("fit_near",), ("fit_unrelated",), BACKGROUND, ("builtin",)):
        prompts = None if kinds == ("builtin",) else size // 2
        yield from _with_and_without(
            keyer, "kind of background", " + ".join(kinds), keyer.fit(kinds=kinds, prompts=prompts)
        )
    for share in SHARES:
        yield (
            "word share",
            share,
            _measured(keyer, replace(joined, word_share=share) if share else without_words(joined)),
        )
    for buckets in BUCKETS:
        for order in ORDERS:
            space = keyer.fit(word_buckets=buckets, order=order)
            yield f"n-gram order, {buckets} buckets", order, _measured(keyer, space)
            yield (
                f"n-gram order, {buckets} buckets, words alone",
                order,
                _measured(keyer, replace(space, word_share=1.0)),
            )
    yield from _forms(keyer)


def _measured(keyer: Keyer, space: RoutingSpace) -> Measures:
    return measure(keyer.routing(space).scores(product))


def _with_and_without(keyer: Keyer, series: str, x: float | str, space: RoutingSpace) -> Iterator[Row]:
    yield f"{series}, {WHITENED}", x, _measured(keyer, without_words(space))
    yield f"{series}, {JOINED}", x, _measured(keyer, space)


def _forms(keyer: Keyer) -> Iterator[Row]:
    """Fit, and key, in one form or both; ask in each."""
    for asked in keyer._forms("rephrase", BOTH):
        for fit in ((PLAIN,), BOTH):
            for keys in ((PLAIN,), BOTH):
                routing = keyer.routing(without_words(keyer.fit(forms=fit)), forms=keys, asked=asked)
                name = f"fitted on {' + '.join(fit)}, keyed by {' + '.join(keys)}"
                yield f"forms, asked {asked}", name, measure(routing.scores(product))
