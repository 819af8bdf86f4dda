"""Keys and queries of one draw of `bench.ablations`, in the identity and in fitted spaces.

Shapes: N texts, W width of a key.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from bench.ablation_features import BASE, CHAT, PLAIN, Features
from bench.ablation_scores import ASKED, Measures, Routing
from horen_vllm.core.routing import RoutingSpace, joined_queries, unit_queries, word_vector
from horen_vllm.editor.calibration.fitting import fit_space

Row = tuple[str, float | str, Measures]
"""Series, what varies within it, and what was measured."""
BOTH: Final = (PLAIN, CHAT)
BACKGROUND: Final = ("fit_near", "fit_unrelated")
WORD_SHARE: Final = 0.5
"""Of the joined space wherever the share itself is not varied."""
IDENTITY, WHITENED, JOINED = "identity", "whitened", "whitened + words"


class Keyer:
    """Makes keys and queries of one draw."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self._said: dict[tuple[str, bool], torch.Tensor] = {}
        self._said_in: RoutingSpace | None = None

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
        parts = [(kind, form) for kind in kinds for form in self.forms(kind, forms)]
        means = torch.cat([self.features[kind].means[form, way][:stop] for kind, form in parts])
        words = [said for kind, _ in parts for said in self.features[kind].words[:stop]]
        return fit_space(means, words, **{"word_share": WORD_SHARE, **options})

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
        shown = self.forms("entry", forms)
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
        return joined_queries(dense, self._words(kind, space, masked=masked), space.word_share)

    def _words(self, kind: str, space: RoutingSpace, *, masked: bool) -> torch.Tensor:
        """Return the word vectors [N, H]; kept while spaces differ in nothing that these are made of."""
        if self._said_in is None or not _say_alike(self._said_in, space):
            self._said_in = space
            self._said.clear()
        if (kind, masked) not in self._said:
            texts = self.features[kind].kept_words if masked else self.features[kind].words
            self._said[kind, masked] = torch.stack([word_vector(words, space) for words in texts])
        return self._said[kind, masked]

    def forms(self, kind: str, forms: Sequence[str] = BOTH) -> list[str]:
        """Return those of the forms that exist: without a template there is no chat."""
        return [form for form in forms if (form, BASE) in self.features[kind].means]


def _say_alike(one: RoutingSpace, other: RoutingSpace) -> bool:
    return one.rarity is other.rarity and (one.word_buckets, one.order) == (other.word_buckets, other.order)


def without_words(space: RoutingSpace) -> RoutingSpace:
    """Return a space's dense part."""
    return replace(space, rarity=torch.empty(0), word_share=0.0, word_buckets=0)


def spaces(keyer: Keyer, way: str) -> dict[str, RoutingSpace | None]:
    """Return the three spaces that are compared, fitted on one way to average."""
    joined = keyer.fit(way)
    return {IDENTITY: None, WHITENED: without_words(joined), JOINED: joined}
