"""Edits, background and questions of one draw of `bench.ablations`: disjoint rows of the operator's own files."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.routing_data import form
from horen_vllm.core.anchors import AnchorTable, anchor_of
from horen_vllm.core.words import plain_words
from horen_vllm.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw: which rows are edited, which fit spaces, which fit thresholds, and which are only reported on."""

    edits: tuple[dict[str, Any], ...]
    """Rows with prompt, rephrase and subject, all about different subjects."""
    fit_near: tuple[str, ...]
    """Questions of the same forms on other subjects."""
    fit_unrelated: tuple[str, ...]
    """Unrelated prompts, as many."""
    fire: tuple[str, ...]
    """Near questions that thresholds are fitted on."""
    near: tuple[str, ...]
    unrelated: tuple[str, ...]
    same_subject: tuple[tuple[int, str], ...]
    """(number of the edit, another relation's question about its subject)."""


def draw(
    rows: Sequence[dict[str, Any]], other: Sequence[str], *, edits: int, asked: int, every: int, seed: int
) -> Draw:
    """Return a draw of `edits` edits, from every `every`-th row, and `asked` questions of each kind.

    Raises
    ------
    ValueError
        If the files have too few rows.
    """
    generator = random.Random(seed)
    chosen = _edited(rows[::every], edits, generator)
    subjects = {row["subject"] for row in chosen}
    rest = [row for row in {row["prompt"]: row for row in rows}.values() if row["subject"] not in subjects]
    unrelated = list(dict.fromkeys(other))
    generator.shuffle(rest)
    generator.shuffle(unrelated)
    if len(chosen) < edits or len(rest) < 3 * asked or len(unrelated) < 2 * asked:
        message = f"too few rows: {len(chosen)} to edit, {len(rest)} near questions, {len(unrelated)} unrelated ones"
        raise ValueError(message)
    prompts = [row["prompt"] for row in rest]
    return Draw(
        edits=tuple(chosen),
        fit_near=tuple(prompts[:asked]),
        fit_unrelated=tuple(unrelated[:asked]),
        fire=tuple(prompts[asked : 2 * asked]),
        near=tuple(prompts[2 * asked : 3 * asked]),
        unrelated=tuple(unrelated[asked : 2 * asked]),
        same_subject=tuple(_same_subject(chosen, rest, generator)),
    )


def _edited(rows: Sequence[dict[str, Any]], edits: int, generator: random.Random) -> list[dict[str, Any]]:
    """Return rows on different subjects that stand in their prompts."""
    named = [row for row in {row["subject"]: row for row in rows}.values() if _named(row)]
    generator.shuffle(named)
    return named[:edits]


def _named(row: dict[str, Any]) -> bool:
    try:
        anchors = AnchorTable({0: (anchor_of(row["subject"] or ""),)})
    except InvalidArgument:
        return False
    return row["subject"] in row["prompt"] and bool(anchors.find(plain_words(row["prompt"])))


def _same_subject(
    chosen: Sequence[dict[str, Any]], rest: Sequence[dict[str, Any]], generator: random.Random
) -> list[tuple[int, str]]:
    """Return another form's question about each edit's subject; one that shares half of its words is no other."""
    found = []
    for number, row in enumerate(chosen):
        own = set(plain_words(form(row))) | set(plain_words(row["rephrase"].replace(row["subject"], " ")))
        forms = [form(other) for other in generator.sample(rest, min(20, len(rest))) if _named(other)]
        others = [text for text in forms if len((words := set(plain_words(text))) & own) < 0.5 * len(words)]
        found += [(number, text.replace("{}", row["subject"])) for text in others[:1]]
    return found
