"""What a layout is, and what all of them read alike."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from horen_vllm.evals.data.defects import DefectKind
from horen_vllm.evals.data.row import Row
from horen_vllm.evals.records import Case, Probe, ProbeKind


@dataclass(frozen=True, slots=True)
class Layout:
    """One form of data file.

    Attributes
    ----------
    name
        What users call it.
    marks
        The fields that tell it, in words.
    fits
        Whether a row with these fields is of it.
    read
        The cases of a row, given what its locality prompts are unless they name the edit's subject. A question that
        needs several of the row's edits belongs to the last of them.
    """

    name: str
    marks: str
    fits: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Row, ProbeKind], Iterator[Case]]


def row_id(row: Row) -> str:
    """Return the row's own id, or its line or row number where it has none."""
    return next(iter(row.texts("id", "case_id")), str(row.number))


def first(texts: tuple[str, ...]) -> str | None:
    """Return the first text; None when there is none."""
    return texts[0] if texts else None


def probes(kind: ProbeKind, asked: Iterator[tuple[str, tuple[str, ...]]]) -> Iterator[Probe]:
    """Yield the questions and answers as probes of one kind."""
    for prompt, targets in asked:
        yield Probe(kind=kind, prompt=prompt, targets=targets)


def asked(row: Row, prompts: tuple[str, ...], answers: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield questions with their right answers from two fields, each named by the first of its names that is there.

    Either both fields speak of one question, whose answers may be a list however nested, or both are lists of the same
    length; one answer beside a list of questions is that of them all. Empty questions are left out and counted, and so
    is a difference in length.
    """
    name, answers_name = row.has(*prompts), row.has(*answers)
    if name is None:
        return
    questions = row.fields[name]
    said = None if answers_name is None else row.fields[answers_name]
    if not isinstance(questions, list):
        questions, said = [questions], [said]
    elif not isinstance(said, list):
        said = [said] * len(questions)
    if len(said) != len(questions):
        row.log.add(DefectKind.UNPAIRED_ANSWER, f"{row.where}: {len(questions)} {name}, {len(said)} {answers_name}")
    for index, question in enumerate(questions):
        text = row.clean(question, name if len(questions) == 1 else f"{name}[{index}]")
        answer = said[index] if index < len(said) else None
        if text is not None:
            yield text, () if answer is None else tuple(dict.fromkeys(row.flat(answer, answers_name or "")))
