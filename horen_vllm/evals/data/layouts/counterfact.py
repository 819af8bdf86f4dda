"""CounterFact (arXiv 2202.05262): one rewrite a row, with paraphrases and prompts about its subject's neighbours."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from horen_vllm.evals.data.defects import DefectKind
from horen_vllm.evals.data.layouts.layout import Layout, row_id
from horen_vllm.evals.data.layouts.negatives import negative_kind
from horen_vllm.evals.data.layouts.rewrite import filled, new_object, old_object
from horen_vllm.evals.data.row import Row
from horen_vllm.evals.records import Case, Probe, ProbeKind


def _read(row: Row, usual: ProbeKind) -> Iterator[Case]:
    edit = row.part("requested_rewrite")
    if edit is None:
        raise row.missing("requested_rewrite")
    subject = edit.needed(DefectKind.EMPTY_PROMPT, "subject")
    prompt = filled(edit.needed(DefectKind.EMPTY_PROMPT, "prompt", "prompt_full"), subject)
    target = new_object(edit, "target_new")
    true = old_object(edit)
    yield Case(
        case_id=row_id(row),
        line=row.number,
        prompt=prompt,
        target=target,
        subject=subject,
        rephrases=row.texts("paraphrase_prompts"),
        target_true=true,
        probes=(
            # Subjects that have the old object, then subjects that have the new one.
            *_neighbours(row, "neighborhood_prompts", true, subject, usual),
            *_neighbours(row, "attribute_prompts", target, subject, usual),
        ),
    )


def _neighbours(row: Row, name: str, target: str | None, subject: str, usual: ProbeKind) -> Iterator[Probe]:
    targets = () if target is None else (target,)
    for prompt in row.texts(name):
        yield Probe(kind=negative_kind(prompt, subject, usual), prompt=prompt, targets=targets)


def _fits(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields.get("requested_rewrite"), dict)


COUNTERFACT: Final = Layout("counterfact", "requested_rewrite, an object", _fits, _read)
