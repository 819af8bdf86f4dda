"""What is wrong with a data file, counted and shown: nothing is left out of an evaluation in silence."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MAX_EXAMPLES: Final = 5
"""Examples that are kept of each kind."""


class DefectKind(StrEnum):
    """Something in a file that an evaluation must not take as it stands."""

    EMPTY_PROMPT = "empty_prompt"
    EMPTY_TARGET = "empty_target"
    EMPTY_FIELD = "empty_field"
    OUTER_WHITE_SPACE = "outer_white_space"
    DUPLICATE_ID = "duplicate_id"
    DUPLICATE_EDIT = "duplicate_edit"
    CONTRADICTORY_EDIT = "contradictory_edit"
    LOST_PROBES = "lost_probes"
    SUBJECT_NOT_IN_PROMPT = "subject_not_in_prompt"
    REPHRASE_IS_PROMPT = "rephrase_is_prompt"
    DUPLICATE_REPHRASE = "duplicate_rephrase"
    CONTRADICTORY_REPHRASE = "contradictory_rephrase"
    REPHRASE_IS_OTHER_EDIT = "rephrase_is_other_edit"
    DUPLICATE_PROBE = "duplicate_probe"
    CONTRADICTED_HOP = "contradicted_hop"
    NEGATIVE_IS_OWN_EDIT = "negative_is_own_edit"
    NEGATIVE_IS_OTHER_EDIT = "negative_is_other_edit"
    UNPAIRED_ANSWER = "unpaired_answer"
    DUPLICATE_PROMPT = "duplicate_prompt"
    UNUSED_FIELD = "unused_field"


HANDLING: Final[Mapping[DefectKind, str]] = {
    DefectKind.EMPTY_PROMPT: "the row is left out",
    DefectKind.EMPTY_TARGET: "the row is left out",
    DefectKind.EMPTY_FIELD: "read as if the field were not there",
    DefectKind.OUTER_WHITE_SPACE: "white space around the text is taken off",
    DefectKind.DUPLICATE_ID: "the id is followed by the line",
    DefectKind.DUPLICATE_EDIT: "the same prompt with the same target: the first is kept and gets the others' questions",
    DefectKind.CONTRADICTORY_EDIT: "the same prompt with another target: the first is kept, the others are left out",
    DefectKind.LOST_PROBES: "questions that need an edit that was left out are left out, too",
    DefectKind.SUBJECT_NOT_IN_PROMPT: "the edit is read without its subject, as the control plane refuses it with it",
    DefectKind.REPHRASE_IS_PROMPT: "the same text as the prompt: the rephrase is left out",
    DefectKind.DUPLICATE_REPHRASE: "the same text as another rephrase of the edit: it is left out",
    DefectKind.CONTRADICTORY_REPHRASE: "the same text stands for another target elsewhere: the rephrase is left out",
    DefectKind.REPHRASE_IS_OTHER_EDIT: "the same text is the prompt of another edit: the rephrase is left out",
    DefectKind.DUPLICATE_PROBE: "the same question of the same edit: asked once, with the answers of all",
    DefectKind.CONTRADICTED_HOP: "another edit changes a fact that the answer rests on: the question is left out",
    DefectKind.NEGATIVE_IS_OWN_EDIT: "a question that no edit may answer is the edit's own: it is left out",
    DefectKind.NEGATIVE_IS_OTHER_EDIT: "kept; not asked in a run that submits that other edit",
    DefectKind.UNPAIRED_ANSWER: "more or fewer answers than questions: questions without an answer have none",
    DefectKind.DUPLICATE_PROMPT: "the same prompt again: the first is kept",
    DefectKind.UNUSED_FIELD: "the layout has no use for the field; counted in rows that have it",
}
KEPT_CONTRADICTIONS: Final = "the same prompt with another target: all are kept, as asked for"


@dataclass(frozen=True, slots=True)
class Defect:
    """One kind of defect of a file.

    Attributes
    ----------
    count
        How often it was met.
    examples
        The first few, each with its line.
    handling
        What was done about each, in words.
    """

    kind: DefectKind
    count: int
    examples: tuple[str, ...]
    handling: str


@dataclass(slots=True)
class DefectLog:
    """Defects as they are met."""

    _counts: Counter[DefectKind] = field(default_factory=Counter)
    _examples: dict[DefectKind, list[str]] = field(default_factory=lambda: defaultdict(list))
    _unused: Counter[str] = field(default_factory=Counter)

    def add(self, kind: DefectKind, example: str) -> None:
        """Count one, and keep it as an example while there are few."""
        self._counts[kind] += 1
        if len(self._examples[kind]) < MAX_EXAMPLES:
            self._examples[kind].append(example)

    def unused(self, name: str) -> None:
        """Count a row with a field that nothing has read."""
        self._unused[name] += 1

    def defects(self, *, kept_contradictions: bool = False) -> tuple[Defect, ...]:
        """Return what was met, in the order of `DefectKind`."""
        handling = {**HANDLING}
        if kept_contradictions:
            handling[DefectKind.CONTRADICTORY_EDIT] = KEPT_CONTRADICTIONS
        found = [
            Defect(kind, self._counts[kind], tuple(self._examples[kind]), handling[kind])
            for kind in DefectKind
            if self._counts[kind]
        ]
        if self._unused:
            names = tuple(f"{name}: {count}" for name, count in sorted(self._unused.items()))
            kind = DefectKind.UNUSED_FIELD
            found.append(Defect(kind, self._unused.total(), names, handling[kind]))
        return tuple(found)
