"""Questions that belong to no case: prompts of ordinary use, and what the model can do in general."""

from collections.abc import Sequence
from typing import Protocol as Interface

from horen_vllm.evals.questions.drafts import Draft, Form, as_prompt
from horen_vllm.evals.records import Protocol, QuestionKind


class GeneralPrompt(Interface):
    """A line of a file of prompts."""

    @property
    def prompt(self) -> str:
        """The text."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Right answers, the canonical one first; empty when the file has none."""


def ordinary(prompts: Sequence[GeneralPrompt], form: Form) -> list[Draft]:
    """Return prompts of ordinary use, of which none may fire."""
    return _drafts(QuestionKind.ORDINARY, prompts, form, form.fire)


def ability(prompts: Sequence[GeneralPrompt], form: Form) -> list[Draft]:
    """Return questions that the model must answer as it does without edits."""
    return _drafts(QuestionKind.ABILITY, prompts, form, form.ability)


def _drafts(kind: QuestionKind, prompts: Sequence[GeneralPrompt], form: Form, length: int) -> list[Draft]:
    found = []
    for part, general in enumerate(prompts):
        prompt, messages = as_prompt(general.prompt, form)
        found.append(
            Draft(
                protocol=Protocol.FIRE,
                kind=kind,
                part=part,
                prompt=prompt,
                messages=messages,
                max_tokens=length,
                targets=general.answers,
            )
        )
    return found
