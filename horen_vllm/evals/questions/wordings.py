"""Every text that a case can be asked with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from horen_vllm.evals.records import Case, QuestionKind

NEGATIVES: Final = (QuestionKind.UNRELATED, QuestionKind.NEAR, QuestionKind.SAME_SUBJECT)
"""Where no edit may fire."""
PORTABILITY: Final = (QuestionKind.PORTABILITY, QuestionKind.PERSONA, QuestionKind.MULTI_HOP)
"""Where the edited fact must be used, not repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """One text of a case.

    Attributes
    ----------
    position
        Place of the case in the stream of edits, from 0.
    part
        Number among the case's texts of the same kind, from 0.
    """

    case: Case
    position: int
    kind: QuestionKind
    part: int
    text: str
    targets: tuple[str, ...]


def wordings(case: Case, position: int, kind: QuestionKind) -> Sequence[Wording]:
    """Return the texts of one kind that `case` has, in the file's order.

    A further question that needs the edited fact but has no answer in the file is left out: it could not be judged.
    """
    return [
        Wording(case=case, position=position, kind=kind, part=part, text=text, targets=targets)
        for part, (text, targets) in enumerate(_texts(case, kind))
    ]


def unanswered(case: Case) -> Sequence[QuestionKind]:
    """Return the kinds of the further questions that `wordings` leaves out, one for each question."""
    kinds = [QuestionKind(probe.kind) for probe in case.probes if not probe.targets]
    return [kind for kind in kinds if kind not in NEGATIVES]


def _texts(case: Case, kind: QuestionKind) -> Sequence[tuple[str, tuple[str, ...]]]:
    if kind is QuestionKind.EDIT:
        return [(case.prompt, (case.target,))]
    if kind is QuestionKind.REPHRASE:
        return [(rephrase, (case.target,)) for rephrase in case.rephrases]
    return [
        (probe.prompt, probe.targets)
        for probe in case.probes
        if QuestionKind(probe.kind) is kind and (probe.targets or kind in NEGATIVES)
    ]
