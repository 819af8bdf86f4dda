"""Collisions: whose entries the texts of an edit match as the codebook is, or nearly.

For people who look before they submit; nothing here decides about an edit.
Shapes: B texts, N keys, W width of a key.
"""

from collections.abc import Iterator
from typing import Final

import torch

from horen_vllm.core.refine import refine
from horen_vllm.editor.codebook.arena import NOBODY
from horen_vllm.editor.codebook.book import EditorCodebook
from horen_vllm.editor.codebook.prospect import Prospect
from horen_vllm.editor.contexts import EditContext
from horen_vllm.registry.preview_records import Collision

NEARLY: Final = 0.05
"""How far below its threshold an entry's score counts as nearly a match."""
MOST: Final = 20
"""Collisions that are told, the nearest ones."""
_A_TEXT: Final = 4
"""Entries that are told of for one form of a text."""
_MOST_SCORES: Final = 1 << 24
"""Scores that are held at once."""


def collisions(book: EditorCodebook, prospect: Prospect) -> tuple[Collision, ...]:
    """Return the entries with another prompt and another target that an edit's texts touch, nearest first.

    Of several forms of one text the nearest counts. None in a codebook that goes by distances.
    """
    if book.parameters.radius is not None:
        return ()
    nearest: dict[tuple[str, str], Collision] = {}
    for found in (*_by_subject(book, prospect), *_by_key(book, prospect)):
        known = nearest.get((found.edit_id, found.text))
        if known is None or found.score > known.score:
            nearest[found.edit_id, found.text] = found
    return tuple(sorted(nearest.values(), key=lambda it: (it.threshold - it.score, it.edit_id))[:MOST])


def _by_subject(book: EditorCodebook, prospect: Prospect) -> Iterator[Collision]:
    """Yield the entries with anchors that a text goes to or nearly does."""
    if book.subjects is None:
        return
    for context in (*prospect.contexts, *prospect.foreign):
        ruling = book.subjects.rule(context.as_key_context())
        if ruling.best != NOBODY and _is_other(book, prospect, ruling.best):
            threshold = max(book.parameters.anchored_threshold, book.subjects.floor_of(ruling.best))
            if ruling.score > threshold - NEARLY:
                yield _collision(book, ruling.best, context, ruling.score, threshold)


def _by_key(book: EditorCodebook, prospect: Prospect) -> Iterator[Collision]:
    """Yield the same of the entries without anchors, for an edit that has none: others are asked for otherwise."""
    held = book.arena.owners != NOBODY
    if prospect.anchors or not held.any():
        return
    keys_NW, owners = book.arena.keys[held], book.arena.owners[held].tolist()
    queries_BW = torch.cat([prospect.keys, prospect.foreign_queries])
    contexts = (*prospect.contexts, *prospect.foreign)
    part = max(1, _MOST_SCORES // len(owners))
    for start in range(0, len(queries_BW), part):
        best = _scores(book, queries_BW[start : start + part], keys_NW).topk(min(_A_TEXT, len(owners)), dim=1)
        for context, scores, rows in zip(contexts[start:], best.values.tolist(), best.indices.tolist(), strict=False):
            for score, row in zip(scores, rows, strict=True):
                owner = owners[row]
                threshold = max(book.parameters.threshold, book.floors.get(owner, -1.0))
                if score > threshold - NEARLY and _is_other(book, prospect, owner):
                    yield _collision(book, owner, context, score, threshold)


def _scores(book: EditorCodebook, queries_BW: torch.Tensor, keys_NW: torch.Tensor) -> torch.Tensor:
    of = book.parameters
    refined = refine(queries_BW, keys_NW, beta=of.beta, gamma=of.gamma, steps=of.steps, epsilon=of.epsilon)
    return refined @ keys_NW.T


def _is_other(book: EditorCodebook, prospect: Prospect, sequence: int) -> bool:
    existing = book.existing[sequence]
    return existing.target_ids != prospect.target_ids and existing.normalised_prompt != prospect.normalised_prompt


def _collision(book: EditorCodebook, sequence: int, context: EditContext, score: float, threshold: float) -> Collision:
    return Collision(edit_id=book.edit_id(sequence), text=context.text, score=score, threshold=threshold)
