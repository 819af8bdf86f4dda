"""MQuAKE (arXiv 2305.14795): one or more edits a row, and questions that need all of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from horen_vllm.evals.data.defects import DefectKind
from horen_vllm.evals.data.layouts.hops import hops
from horen_vllm.evals.data.layouts.layout import Layout, asked, row_id
from horen_vllm.evals.data.layouts.negatives import negatives
from horen_vllm.evals.data.layouts.rewrite import filled, new_object, old_object
from horen_vllm.evals.data.row import Row
from horen_vllm.evals.records import Case, ProbeKind


def rewritten(case: Case, edits: Sequence[Row]) -> Iterator[Case]:
    """Yield `case` as it is, or, where its row has several edits, one for each.

    What is asked about the row needs all of them, so it belongs to the last.
    """
    if not edits:
        yield case
        return
    read = [_edit(case, edit, str(index) if len(edits) > 1 else None) for index, edit in enumerate(edits, start=1)]
    yield from read[:-1]
    yield replace(read[-1], probes=case.probes)


def _edit(case: Case, edit: Row, suffix: str | None) -> Case:
    subject = edit.text("subject")
    return Case(
        case_id=case.case_id if suffix is None else f"{case.case_id}.{suffix}",
        line=case.line,
        prompt=edit.needed(DefectKind.EMPTY_PROMPT, "question"),
        target=new_object(edit, "target", "target_new"),
        subject=subject,
        rephrases=tuple(filled(text, subject or "") for text in edit.texts("prompt")),
        target_true=old_object(edit),
    )


def _read(row: Row, usual: ProbeKind) -> Iterator[Case]:
    if row.has("requested_rewrite") is None:
        raise row.missing("requested_rewrite")
    edits = row.parts("requested_rewrite")
    if not edits:
        raise row.wrong("requested_rewrite", "has no edit")
    probes = (
        *hops(row, "questions", "new_answer", "new_answer_alias"),
        *negatives(asked(row, ("loc",), ("loc_ans",)), None, usual),
    )
    # The prompt and target are those of each edit.
    yield from rewritten(Case(case_id=row_id(row), line=row.number, prompt="", target="", probes=probes), edits)


def _fits(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields.get("requested_rewrite"), list)


MQUAKE: Final = Layout("mquake", "requested_rewrite, a list", _fits, _read)
