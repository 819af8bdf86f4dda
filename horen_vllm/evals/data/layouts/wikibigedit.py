"""WikiBigEdit (arXiv 2503.05683): changes of Wikidata as questions, with personas and two-hop questions."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from horen_vllm.evals.data.defects import DefectKind
from horen_vllm.evals.data.layouts.hops import hops
from horen_vllm.evals.data.layouts.layout import Layout, asked, row_id
from horen_vllm.evals.data.layouts.negatives import negatives
from horen_vllm.evals.data.row import Row
from horen_vllm.evals.records import Case, Probe, ProbeKind


def _read(row: Row, usual: ProbeKind) -> Iterator[Case]:
    subject = row.text("subject")
    target = row.needed(DefectKind.EMPTY_TARGET, "ans")
    yield Case(
        case_id=row_id(row),
        line=row.number,
        prompt=row.needed(DefectKind.EMPTY_PROMPT, "update"),
        target=target,
        subject=subject,
        rephrases=row.texts("rephrase"),
        probes=(
            *negatives(asked(row, ("loc",), ("loc_ans",)), subject, usual),
            *(Probe(kind=ProbeKind.PERSONA, prompt=text, targets=(target,)) for text in row.texts("personas")),
            *hops(row, "mhop", "mhop_ans", "mhop_ans_alias"),
        ),
    )


def _fits(fields: Mapping[str, Any]) -> bool:
    return "update" in fields and "ans" in fields


WIKIBIGEDIT: Final = Layout("wikibigedit", "update and ans", _fits, _read)
