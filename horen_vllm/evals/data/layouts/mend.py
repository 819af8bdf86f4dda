"""ZsRE as MEND (arXiv 2110.11309) and its users publish it.

The same fields mean two things: MEND's edits are the alternative answers, `alt`; MEMIT, WISE and HoReN edit in the
first of the true `answers`. The fields cannot tell, so MEND's way is taken unless the layout is named.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from horen_vllm.evals.data.defects import DefectKind
from horen_vllm.evals.data.layouts.layout import Layout, asked, first, probes, row_id
from horen_vllm.evals.data.layouts.negatives import is_named, negatives
from horen_vllm.evals.data.row import EmptyPartError, Row
from horen_vllm.evals.records import Case, Probe, ProbeKind


def _read_mend(row: Row, usual: ProbeKind) -> Iterator[Case]:
    yield _case(row, row.needed(DefectKind.EMPTY_TARGET, "alt"), first(row.texts("answers")), usual)


def _read_horen(row: Row, usual: ProbeKind) -> Iterator[Case]:
    yield _case(row, _first_of(row, "answers"), None, usual)


def _case(row: Row, target: str, true: str | None, usual: ProbeKind) -> Case:
    subject = row.text("subject")
    return Case(
        case_id=row_id(row),
        line=row.number,
        prompt=row.needed(DefectKind.EMPTY_PROMPT, "src"),
        target=target,
        subject=subject,
        rephrases=row.texts("rephrase"),
        target_true=true,
        probes=(*negatives(asked(row, ("loc",), ("loc_ans",)), subject, usual), *_portability(row)),
    )


def _portability(row: Row) -> Iterator[Probe]:
    """Yield EasyEdit's addition: a question that follows from the edit."""
    part = row.part("portability")
    if part is not None:
        yield from probes(ProbeKind.PORTABILITY, asked(part, ("New Question",), ("New Answer",)))


def _read_kilt(row: Row, _usual: ProbeKind) -> Iterator[Case]:
    prompt = row.needed(DefectKind.EMPTY_PROMPT, "input")
    answers: list[str] = []
    titles: list[str] = []
    for output in row.parts("output"):
        answers += output.texts("answer")
        titles += [title for source in output.parts("provenance") for title in source.texts("title")]
    yield Case(
        case_id=row_id(row),
        line=row.number,
        prompt=prompt,
        target=_first_of(row, "alternatives"),
        # The page that the answer stands on is the subject where the question names it.
        subject=next((title for title in titles if is_named(title, prompt)), None),
        rephrases=row.texts("filtered_rephrases"),
        target_true=first(tuple(answers)),
    )


def _first_of(row: Row, name: str) -> str:
    texts = row.texts(name)
    if texts:
        return texts[0]
    # Says which is wrong when the field is missing, or has something else than texts.
    if row.has(name) is None:
        return row.needed(DefectKind.EMPTY_TARGET, name)
    raise EmptyPartError(DefectKind.EMPTY_TARGET, f"{row.where}: {name}")


def _is_mend(fields: Mapping[str, Any]) -> bool:
    return "src" in fields and "alt" in fields


def _is_horen(fields: Mapping[str, Any]) -> bool:
    return "src" in fields and "answers" in fields


def _is_kilt(fields: Mapping[str, Any]) -> bool:
    return "input" in fields and "alternatives" in fields


MEND: Final = Layout("mend", "src and alt", _is_mend, _read_mend)
HOREN: Final = Layout("horen", "src and answers", _is_horen, _read_horen)
KILT: Final = Layout("kilt", "input and alternatives", _is_kilt, _read_kilt)
