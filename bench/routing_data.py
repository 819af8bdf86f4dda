"""Edits, background and questions of one run of `bench.routing_goals`: disjoint rows of the operator's own files."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from horen_vllm.core.words import plain_words
from horen_vllm.editor.calibration.background import BackgroundPrompt
from horen_vllm.registry.models import EditSpec


@dataclass(frozen=True, slots=True)
class RoutingData:
    """One draw: which rows are edited, which set thresholds, and which are only reported on."""

    edits: tuple[dict[str, Any], ...]
    """Rows with prompt, target, rephrase and subject."""
    background: tuple[BackgroundPrompt, ...]
    """Prompts on other subjects than those edited, and unrelated ones: the threshold's."""
    near: tuple[str, ...]
    """Prompts of the same question forms on other subjects, none of them background."""
    unrelated: tuple[str, ...]
    same_subject: tuple[tuple[int, str], ...]
    """(number of the edit, another relation's question about its subject)."""

    def specs(self, *, subjects: bool) -> list[EditSpec]:
        """Return what is submitted, with or without the subjects."""
        return [
            EditSpec(prompt=row["prompt"], target=row["target"], subject=row["subject"] if subjects else None)
            for row in self.edits
        ]


def draw(rows: Sequence[dict[str, Any]], other: Sequence[str], *, edits: int, asked: int, seed: int) -> RoutingData:
    """Return a draw; the last `asked` unedited rows and unrelated prompts are reported on, the others are background.

    Parameters
    ----------
    rows
        With prompt, target, rephrase and subject; of equal prompts the first counts.
    other
        Unrelated prompts.
    """
    generator = random.Random(seed)
    distinct = [row for row in {row["prompt"]: row for row in rows}.values() if _named(row)]
    generator.shuffle(distinct)
    chosen = distinct[:edits]
    subjects = {row["subject"] for row in chosen}
    rest = [row for row in distinct[edits:] if row["subject"] not in subjects]
    unrelated = list(dict.fromkeys(other))
    generator.shuffle(unrelated)
    # No more unrelated background than near: it would only dilute the rate that is asked for.
    near, background = rest[-asked:], rest[:-asked][:asked]
    prompts = [BackgroundPrompt(row["prompt"], row["subject"], form(row)) for row in background]
    prompts += [BackgroundPrompt(text) for text in unrelated[asked : asked + len(background)]]
    generator.shuffle(prompts)
    return RoutingData(
        edits=tuple(chosen),
        background=tuple(prompts),
        near=tuple(row["prompt"] for row in near),
        unrelated=tuple(unrelated[:asked]),
        same_subject=tuple(_same_subject(chosen, rest, generator)),
    )


def form(row: dict[str, Any]) -> str:
    """Return a row's question with its subject taken out."""
    return str(row["prompt"].replace(row["subject"], "{}"))


def _named(row: dict[str, Any]) -> bool:
    words, name = plain_words(row["prompt"]), plain_words(row["subject"] or "")
    return (
        bool(name)
        and row["subject"] in row["prompt"]
        and any(words[at : at + len(name)] == name for at in range(len(words)))
    )


def _same_subject(
    chosen: Sequence[dict[str, Any]], rest: Sequence[dict[str, Any]], generator: random.Random
) -> list[tuple[int, str]]:
    """Return another form's question about each edit's subject; one that shares half of its words is no other."""
    found = []
    for number, row in enumerate(chosen):
        own = set(plain_words(form(row))) | set(plain_words(row["rephrase"].replace(row["subject"], " ")))
        for other in generator.sample(rest, min(20, len(rest))):
            words = set(plain_words(form(other)))
            if len(words & own) < 0.5 * len(words):
                found.append((number, form(other).replace("{}", row["subject"])))
                break
    return found
