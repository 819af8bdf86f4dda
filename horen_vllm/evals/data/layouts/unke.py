"""UnKE (arXiv 2405.15349): a passage is edited in as the answer of a question, and asked for in parts."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from horen_vllm.evals.data.defects import DefectKind
from horen_vllm.evals.data.layouts.layout import Layout, asked, probes, row_id
from horen_vllm.evals.data.row import Row
from horen_vllm.evals.records import Case, ProbeKind

_PARAPHRASES: Final = ("para_question", "paraphrase")
_PARTS: Final = ("sub_question", "sub_questions")


def _read(row: Row, _usual: ProbeKind) -> Iterator[Case]:
    yield Case(
        case_id=row_id(row),
        line=row.number,
        prompt=row.needed(DefectKind.EMPTY_PROMPT, "question"),
        target=row.needed(DefectKind.EMPTY_TARGET, "answer"),
        rephrases=row.texts(*_PARAPHRASES),
        probes=tuple(probes(ProbeKind.SUB_QUESTION, asked(row, _PARTS, ("sub_answer", "sub_answers")))),
    )


def _fits(fields: Mapping[str, Any]) -> bool:
    return "question" in fields and "answer" in fields and any(name in fields for name in (*_PARAPHRASES, *_PARTS))


UNKE: Final = Layout("unke", "question, answer and para_question or sub_question", _fits, _read)
