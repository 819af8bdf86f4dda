"""Transplants: questions about one subject, made from the same questions about others.

Background prompts seldom hold two facts of one subject, but what tells such facts apart must be measured.
"""

import random
from collections.abc import Collection, Sequence
from typing import Final

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.editor.calibration.prompt import BackgroundPrompt

_DRAWS: Final = 8

Fact = tuple[str, str]
"""Subject and relation."""


def relation_of(prompt: BackgroundPrompt) -> str | None:
    """Return what a prompt asks: its relation, or what is left of its text without the subject."""
    if prompt.relation is not None or prompt.subject is None:
        return prompt.relation
    return normalise_prompt(prompt.prompt).replace(subject_of(prompt), "{}")


def subject_of(prompt: BackgroundPrompt) -> str:
    """Return a prompt's subject as subjects are compared; empty where it has none."""
    return normalise_prompt(prompt.subject or "")


def fact_of(prompt: BackgroundPrompt) -> Fact | None:
    """Return which fact a prompt asks for; None where its subject or its relation is not known."""
    relation = relation_of(prompt)
    return None if prompt.subject is None or relation is None else (subject_of(prompt), relation)


def transplanted(
    prompts: Sequence[BackgroundPrompt],
    donors: Sequence[BackgroundPrompt],
    taken: Collection[Fact],
    generator: random.Random,
) -> list[str | None]:
    """Return for each prompt another relation's question with the prompt's subject in it, or None.

    Parameters
    ----------
    donors
        Prompts whose questions may be used.
    taken
        Facts that no question may ask for.
    """
    usable = [donor for donor in donors if donor.subject and donor.subject in donor.prompt]
    return [_question(prompt, usable, taken, generator) for prompt in prompts]


def _question(
    prompt: BackgroundPrompt, donors: Sequence[BackgroundPrompt], taken: Collection[Fact], generator: random.Random
) -> str | None:
    if not donors or prompt.subject is None:
        return None
    for donor in generator.choices(donors, k=_DRAWS):
        relation = relation_of(donor)
        if relation != relation_of(prompt) and (subject_of(prompt), relation) not in taken:
            return donor.prompt.replace(donor.subject or "", prompt.subject)
    return None
