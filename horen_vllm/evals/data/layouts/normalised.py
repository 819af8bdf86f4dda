"""Two forms of this project: the normalised files of published data, and plain files of one's own edits.

Both have ``prompt`` and ``target``, one JSON object a line.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from horen_vllm.evals.data.defects import DefectKind
from horen_vllm.evals.data.layouts.hops import hops
from horen_vllm.evals.data.layouts.layout import Layout, asked, first, probes, row_id
from horen_vllm.evals.data.layouts.mquake import rewritten
from horen_vllm.evals.data.layouts.negatives import negatives
from horen_vllm.evals.data.row import Row
from horen_vllm.evals.records import Case, Probe, ProbeKind

_MARKS: Final = ("rephrase", "locality_prompt", "locality_all", "near_prompt", "mhop", "edits")
_SAME_SUBJECT: Final = frozenset({"Relation_Specificity", "Forgetfulness"})
"""KnowEdit's names of prompts about other relations of the subject, and about other values of the same one."""


def _read_normalised(row: Row, usual: ProbeKind) -> Iterator[Case]:
    subject = row.text("subject")
    case = Case(
        case_id=row_id(row),
        line=row.number,
        prompt=row.needed(DefectKind.EMPTY_PROMPT, "prompt"),
        target=row.needed(DefectKind.EMPTY_TARGET, "target"),
        subject=subject,
        rephrases=row.texts("rephrase"),
        target_true=first(row.texts("target_true", "target_old", "ground_truth", "answers")),
        probes=(
            *_localities(row, subject, usual),
            *probes(ProbeKind.NEAR, asked(row, ("near_prompt",), ("near_target",))),
            *_portabilities(row),
            *probes(ProbeKind.PERSONA, asked(row, ("persona",), ("persona_target",))),
            *hops(row, "mhop", "mhop_target", "mhop_target_alias"),
        ),
    )
    yield from rewritten(case, row.parts("edits"))


def _localities(row: Row, subject: str | None, usual: ProbeKind) -> Iterator[Probe]:
    """Yield the locality prompts; `locality_prompt` is one of `locality_all` where a row has both."""
    known = set()
    for part in row.parts("locality_all"):
        kind = part.text("type")
        for probe in negatives(asked(part, ("prompt",), ("target",)), subject, usual):
            known.add(probe.prompt)
            is_same = kind in _SAME_SUBJECT
            yield Probe(kind=ProbeKind.SAME_SUBJECT, prompt=probe.prompt, targets=probe.targets) if is_same else probe
    for probe in negatives(asked(row, ("locality_prompt",), ("locality_target",)), subject, usual):
        if probe.prompt not in known:
            yield probe


def _portabilities(row: Row) -> Iterator[Probe]:
    for part in row.parts("portability"):
        part.has("type", "relation")  # what the question is about, in the source's words: no table tells them apart
        yield from probes(ProbeKind.PORTABILITY, asked(part, ("prompt",), ("target",)))


def _read_plain(row: Row, _usual: ProbeKind) -> Iterator[Case]:
    yield Case(
        case_id=row_id(row),
        line=row.number,
        prompt=row.needed(DefectKind.EMPTY_PROMPT, "prompt"),
        target=row.needed(DefectKind.EMPTY_TARGET, "target"),
        subject=row.text("subject"),
        rephrases=row.texts("rephrases", "paraphrases"),
        target_true=row.text("target_true"),
        probes=tuple(probe for kind in ProbeKind for probe in _plain_probes(row, kind)),
    )


def _plain_probes(row: Row, kind: ProbeKind) -> Iterator[Probe]:
    """Yield the questions of a kind: texts, or objects with ``prompt`` and ``target``."""
    name = row.has(str(kind))
    items = row.fields[name] if name is not None else []
    if isinstance(items, list) and any(isinstance(item, dict) for item in items):
        for part in row.parts(str(kind)):
            yield from probes(kind, asked(part, ("prompt",), ("target", "targets")))
    else:
        yield from probes(kind, asked(row, (str(kind),), ()))


def _is_edit(fields: Mapping[str, Any]) -> bool:
    return "prompt" in fields and "target" in fields


def _is_normalised(fields: Mapping[str, Any]) -> bool:
    return _is_edit(fields) and any(name in fields for name in _MARKS)


NORMALISED: Final = Layout(
    "normalised", "prompt, target and locality_prompt or another of its fields", _is_normalised, _read_normalised
)
PLAIN: Final = Layout("jsonl", "prompt and target", _is_edit, _read_plain)
