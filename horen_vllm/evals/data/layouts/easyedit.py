"""Files of EasyEdit (github.com/zjunlp/EasyEdit) and of its benchmark KnowEdit (arXiv 2401.01286).

Both have ``prompt`` and ``target_new``. Locality and portability are flat fields, or objects of named sections; a
section is a list of questions (KnowEdit) or an object of parallel lists (EasyEdit).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from horen_vllm.evals.data.defects import DefectKind
from horen_vllm.evals.data.layouts.layout import Layout, asked, first, probes, row_id
from horen_vllm.evals.data.layouts.negatives import negatives
from horen_vllm.evals.data.row import Row
from horen_vllm.evals.records import Case, Probe, ProbeKind

_SAME_SUBJECT: Final = frozenset({"Relation_Specificity", "Forgetfulness"})
_ANSWER: Final = ("ground_truth", "target")


def _read(row: Row, usual: ProbeKind) -> Iterator[Case]:
    # WikiBio's rows have text, labels and concept.
    subject = row.text("subject", "concept")
    yield Case(
        case_id=row_id(row),
        line=row.number,
        prompt=row.needed(DefectKind.EMPTY_PROMPT, "prompt", "text"),
        target=row.needed(DefectKind.EMPTY_TARGET, "target_new", "labels"),
        subject=subject,
        rephrases=row.texts("rephrase_prompt", "rephrase"),
        target_true=first(row.texts("ground_truth")),
        probes=(
            *negatives(asked(row, ("locality_prompt",), ("locality_ground_truth",)), subject, usual),
            *_localities(row, subject, usual),
            *probes(ProbeKind.PORTABILITY, asked(row, ("portability_prompt",), ("portability_ground_truth",))),
            *_portabilities(row),
        ),
    )


def _localities(row: Row, subject: str | None, usual: ProbeKind) -> Iterator[Probe]:
    for name, part in _sections(row, "locality"):
        questions = asked(part, ("prompt",), _ANSWER)
        if name in _SAME_SUBJECT:
            yield from probes(ProbeKind.SAME_SUBJECT, questions)
        else:
            yield from negatives(questions, subject, usual)


def _portabilities(row: Row) -> Iterator[Probe]:
    for _, part in _sections(row, "portability"):
        yield from probes(ProbeKind.PORTABILITY, asked(part, ("prompt",), _ANSWER))


def _sections(row: Row, name: str) -> Iterator[tuple[str, Row]]:
    """Yield each part of each section under its section's name."""
    whole = row.part(name)
    if whole is None:
        return
    for section, value in whole.fields.items():
        if isinstance(value, list):
            yield from ((section, part) for part in whole.parts(section))
        elif (part := whole.part(section)) is not None:
            yield section, part


def _is_easyedit(fields: Mapping[str, Any]) -> bool:
    return "prompt" in fields and "target_new" in fields


def _is_knowedit(fields: Mapping[str, Any]) -> bool:
    if "text" in fields and "labels" in fields:
        return True
    sections = [fields.get(name) for name in ("locality", "portability")]
    of_lists = (isinstance(it, dict) and any(isinstance(part, list) for part in it.values()) for it in sections)
    return _is_easyedit(fields) and any(of_lists)


KNOWEDIT: Final = Layout("knowedit", "prompt and target_new with lists of questions", _is_knowedit, _read)
EASYEDIT: Final = Layout("easyedit", "prompt and target_new", _is_easyedit, _read)
