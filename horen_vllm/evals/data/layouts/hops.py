"""Questions that need several facts, with the facts that they need."""

from collections.abc import Iterator
from dataclasses import dataclass

from horen_vllm.evals.data.layouts.layout import asked
from horen_vllm.evals.data.row import Row
from horen_vllm.evals.records import Probe, ProbeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One step of a question: its wordings, and the answers that the step must have."""

    wordings: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HopProbe(Probe):
    """A multi-hop question while a file is read: its answer is wrong where an edit changes one of these facts."""

    facts: tuple[Fact, ...] = ()


def hops(row: Row, questions: str, answer: str, aliases: str) -> Iterator[Probe]:
    """Yield wordings of one multi-hop question with its answer and the answer's other names."""
    targets = tuple(dict.fromkeys((*row.texts(answer), *row.texts(aliases))))
    facts = tuple(_fact(part) for part in row.parts("new_single_hops"))
    for question in row.texts(questions):
        yield HopProbe(kind=ProbeKind.MULTI_HOP, prompt=question, targets=targets, facts=facts)


def _fact(part: Row) -> Fact:
    wordings = tuple(text for name in ("question", "cloze") for text, _ in asked(part, (name,), ()))
    return Fact(wordings=wordings, answers=(*part.texts("answer"), *part.texts("answer_alias")))
