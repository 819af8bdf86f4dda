"""The sections of `bench.ablations`: what each varies, and what a reader must know of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.ablation_features import Features
from bench.ablation_keyer import Row
from bench.ablation_masks import masks
from bench.ablation_paper import damping, ingredients, precision, steps
from bench.ablation_spaces import fitted, pooling, sites

_PAPER_KEYS: Final = "One key an edit: the last 60 % of the whole prompt, its first special token included, normalised."
_FITTED: Final = (
    "Whitened: the space that calibration fits on background prompts, without words. Whitened + words: with single "
    "words at half of the score (the preset's share is lower). An edit has a key in plain and, with a template, in "
    "chat form."
)
ABOUT: Final = (
    "No values are trained: what is measured is whether the right entry fires. Near questions are unedited rows on "
    "other subjects, unrelated prompts come from another file. c lets 5 % of near questions fire that are not among "
    "those reported on; recall at 1 % and 5 % near is at exactly these shares of those reported on. AUC: the best "
    "score of rephrases against that of near questions, whichever entry has it. Shares are of all draws together; as "
    "draws share some rows, their 95 % Wilson intervals are a little too narrow."
)


@dataclass(frozen=True, slots=True)
class Section:
    """One table."""

    name: str
    title: str
    x: str
    """What varies within a series."""
    measure: Callable[[Features], Iterator[Row]]
    note: str


SECTIONS: Final = (
    Section("pooling", "1. Pooled share of the content", "%", pooling, _FITTED),
    Section(
        "steps",
        "2. Number of refinement steps",
        "steps",
        steps,
        f"{_PAPER_KEYS} Beta 20. At c fitted again, at the c that is fitted without any step, and at c = 0.85. "
        "The whitened series has keys in both forms.",
    ),
    Section(
        "damping",
        "3. Size and sharpness of one step",
        "gamma or beta",
        damping,
        f"{_PAPER_KEYS} One step; thresholds as above.",
    ),
    Section(
        "ingredients",
        "4. Normalisation, refinement and pooling one by one (the paper's tables 10 and 11)",
        "score",
        ingredients,
        "Last token, Euclidean distance: GRACE with one radius for all, fitted, and as published, 1. Pooled cosine "
        "with a step of 0.01: the paper; of 0.1: its released code; the published c is 0.85, as for most models. Not "
        "normalised: activations as they are, in the step and in the score. Distances count as negative scores.",
    ),
    Section(
        "precision",
        "5. Scores in bfloat16",
        "numbers",
        precision,
        "Errors are of the scores of rephrases with entries, against float32 without a step; a step's are what it does "
        "to them. The activations and their averages are in float32 in all rows. Of equal scores the newest entry's "
        "counts. The identity as in section 2.",
    ),
    Section(
        "fitted",
        "6. Fitted space",
        "value",
        fitted,
        f"{_FITTED} 60 % pooled. What is not varied is the preset's; the background is half near and half "
        "unrelated prompts. Full rank is the last one. A word share of 1: words alone; n-grams: of up to n words. "
        "Where chats are asked, near questions are chats, too.",
    ),
    Section(
        "sites",
        "7. Layer whose down-projection is the edit site",
        "layer",
        sites,
        f"{_FITTED} 60 % pooled. Routing only: a value that is added in the last layer changes the token that is "
        "predicted at its own position and nothing else, since no later position reads it; only the token itself "
        "carries it on.",
    ),
    Section(
        "masks",
        "8. Subject mask",
        "text",
        masks,
        "An entry competes where its subject occurs. Own rephrases against questions of another relation on the same "
        "subject: the share of these that fires at the c where 80, 90 and 95 % of the rephrases fire (all of them, "
        "where fewer rephrases name the subject). AUC is of these two. Masked: key, query and words without the "
        "subject.",
    ),
)
