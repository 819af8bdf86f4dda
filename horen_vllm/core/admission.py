"""Admission: what a new edit means for a codebook (section 2.4 with the upsert rules of architecture.md).

Compares exact token ids, never means of them, and addresses entries by index, never by routing to them.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from horen_vllm.core.match import KeyTable, route
from horen_vllm.core.presets import MethodParameters


class AdmissionKind(StrEnum):
    """What becomes of an edit."""

    SAME = "same"
    """Same prompt, same target, no new paraphrase: already there, no new entry."""
    SUPERSEDE = "supersede"
    """Same prompt, other target or new paraphrases: the new entry replaces the old one."""
    ALIAS = "alias"
    """Other prompt in the basin of an entry with the same target: own keys, that entry's value."""
    NEW = "new"
    """An entry of its own; any basin it shares with another target is reported."""


@dataclass(frozen=True, slots=True)
class Existing:
    """What admission needs to know of an entry of the current revision."""

    edit_id: str
    sequence: int
    normalised_prompt: str
    target_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A new edit: its prompt, its target and the queries [k, d] (float32, unit) of its contexts."""

    normalised_prompt: str
    target_ids: tuple[int, ...]
    queries: torch.Tensor


@dataclass(frozen=True, slots=True)
class Admission:
    """The verdict; indexes address the existing entries that were passed in."""

    kind: AdmissionKind
    entry: int | None = None
    """The entry that already says it (SAME) or lends its value (ALIAS)."""
    supersedes: tuple[int, ...] = ()
    overlaps: tuple[int, ...] = ()
    """Entries with another target and another prompt into whose basin a context falls."""


def normalise_prompt(text: str) -> str:
    """Return the form in which two prompts count as the same: NFKC, case-folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def admit(
    candidate: Candidate, existing: Sequence[Existing], table: KeyTable, parameters: MethodParameters
) -> Admission:
    """Decide what `candidate` means for a codebook with these entries.

    `table.owners` index `existing`. A basin is where the routing rule itself would fire (score > threshold,
    after refinement): section 2.4's match, taken for each context of the edit.
    """
    same_prompt = [
        index for index, entry in enumerate(existing) if entry.normalised_prompt == candidate.normalised_prompt
    ]
    by_index = dict(enumerate(existing))
    return admission(candidate.target_ids, by_index, same_prompt, lambda: _basins(candidate, table, parameters))


def admission(
    target_ids: tuple[int, ...],
    existing: Mapping[int, Existing],
    same_prompt: Sequence[int],
    basins: Callable[[], Sequence[int]],
    holds: Callable[[int], bool] = lambda _index: True,
) -> Admission:
    """Decide as `admit`, for a caller that has looked up entries and basins itself.

    Parameters
    ----------
    target_ids
        The new edit's target.
    existing
        The entries, by whatever number names them; the verdict speaks of them by these numbers.
    same_prompt
        Those with the new edit's normalised prompt.
    basins
        Gives the entries that the new edit's contexts match now, in the contexts' order; called only when the
        verdict depends on them.
    holds
        Whether an entry with the same prompt and target has keys for all that the new edit asks for; one that has not
        is superseded.
    """
    for index in same_prompt:
        if existing[index].target_ids == target_ids and holds(index):
            return Admission(AdmissionKind.SAME, entry=index)
    hits = basins()
    overlaps = tuple(index for index in hits if index not in same_prompt and existing[index].target_ids != target_ids)
    if same_prompt:
        return Admission(AdmissionKind.SUPERSEDE, supersedes=tuple(same_prompt), overlaps=overlaps)
    lenders = [index for index in hits if existing[index].target_ids == target_ids]
    if lenders and not overlaps:
        return Admission(AdmissionKind.ALIAS, entry=lenders[0])
    return Admission(AdmissionKind.NEW, overlaps=overlaps)


def _basins(candidate: Candidate, table: KeyTable, parameters: MethodParameters) -> list[int]:
    hits = [decision.entry for decision in route(candidate.queries, table, parameters)]
    return list(dict.fromkeys(index for index in hits if index is not None))
