"""Questions that compare presets: which held-out facts become entries, and what they are asked.

Texts only; does not run the model.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from horen_vllm.editor.calibration.prompt import BackgroundPrompt
from horen_vllm.editor.calibration.transplant import fact_of, relation_of, subject_of, transplanted

LEAST_ENTRIES: Final = 20
"""Fewer entries say too little about a preset."""
_MOST: Final = 400
"""Entries, and questions of each kind; more narrow the intervals little and cost passes."""
_KEPT_OUT: Final = 4
"""One relation in so many gives no entry, so that there are questions of relations without any."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Facts that become entries, and prompts on which the right one, or none, should fire.

    Attributes
    ----------
    entries
        The facts; an entry's key is their `prompt`.
    rephrases
        Another wording of each entry's fact.
    near
        Questions of the entries' relations about other subjects.
    unrelated
        Questions of other relations, or of none.
    same_subject
        Questions of other relations about the entries' subjects.
    """

    entries: tuple[BackgroundPrompt, ...]
    rephrases: tuple[str, ...]
    near: tuple[str, ...]
    unrelated: tuple[str, ...]
    same_subject: tuple[str, ...]


def questions(prompts: Sequence[BackgroundPrompt], seed: int) -> Questions:
    """Return questions drawn from prompts that had no part in the fit; equal for equal arguments."""
    generator = random.Random(seed)
    order = list(prompts)
    generator.shuffle(order)
    entries, others = _divided(order)
    facts = set(filter(None, map(fact_of, entries)))
    subjects = {subject for subject, _ in facts}
    relations = {relation for _, relation in facts}
    strangers = [prompt for prompt in others if subject_of(prompt) not in subjects]
    near = [prompt.prompt for prompt in strangers if relation_of(prompt) in relations]
    unrelated = [prompt.prompt for prompt in strangers if relation_of(prompt) not in relations]
    return Questions(
        entries=tuple(entries),
        rephrases=tuple(generator.choice(entry.rephrases) for entry in entries),
        near=tuple(near[:_MOST]),
        unrelated=tuple(unrelated[:_MOST]),
        same_subject=tuple(filter(None, transplanted(entries, order, facts, generator))),
    )


def _divided(order: Sequence[BackgroundPrompt]) -> tuple[list[BackgroundPrompt], list[BackgroundPrompt]]:
    """Return entries and others: every second prompt of a relation, of those relations that give entries."""
    relations = list(dict.fromkeys(filter(None, map(relation_of, order))))
    kept_out = set(relations[: len(relations) // _KEPT_OUT])
    entries: list[BackgroundPrompt] = []
    others: list[BackgroundPrompt] = []
    even: dict[str | None, bool] = {}
    for prompt in order:
        relation = relation_of(prompt)
        enters = bool(prompt.rephrases) and relation not in kept_out and len(entries) < _MOST
        even[relation] = enters and not even.get(relation, False)
        (entries if even[relation] else others).append(prompt)
    return entries, others
