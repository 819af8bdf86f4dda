"""The answers that were wrong, with what is known of why."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from horen_vllm.evals.questions.drafts import BASE
from horen_vllm.evals.records import Protocol, QuestionKind, Record
from horen_vllm.evals.reporting.measures import SILENT
from horen_vllm.evals.reporting.run_info import ArmInfo, StreamedCase
from horen_vllm.evals.reporting.run_records import GroupKey, Run

SHOWN: Final = 25
"""Most failures of a kind that are listed."""
PASSAGE_BOUND: Final = 0.5
"""ROUGE-L below which a passage counts as another text, unless the reference stands in it.

The first half of a passage has 0.67 on average, another passage of UnKE 0.22 (docs/reference/eval-metrics.md).
"""
_RIGHT: Final = {Protocol.PAPER: "all_tokens", Protocol.STRICT: "normalised"}
"""Metric that is 1 when a text is right."""


class Reason(StrEnum):
    """Why an answer is wrong, as far as it can be told from outside."""

    EDIT_FAILED = "its edit failed"
    NOT_FIRED = "no edit fired"
    OTHER_EDIT = "another edit fired"
    WRONG_TEXT = "its edit fired, with another text"
    FIRED = "an edit fired where none may"
    CHANGED = "changed, though no edit fired"
    UNKNOWN_EDIT = "an edit fired, with another text; which one should is not known"
    OTHER_TEXT = "another text"
    """Of an arm without a codebook."""
    OTHER_THAN_BEFORE = "another text than the base model's"
    """Of an arm without a codebook."""


_OF_EDITS: Final = frozenset({Reason.NOT_FIRED, Reason.OTHER_EDIT, Reason.WRONG_TEXT, Reason.UNKNOWN_EDIT})
"""Why an edit's question has another answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One wrong answer.

    Attributes
    ----------
    asked
        The prompt, or the turns of the chat.
    base
        The base model's answer to the same question; None when it was not asked.
    fired
        The edit that answered; None when none did, or when the run does not know it.
    detail
        Code of an edit that failed.
    overlap
        ROUGE-L of a passage; None of any other answer.
    """

    position: int | None
    asked: str
    targets: tuple[str, ...]
    answer: str
    base: str | None
    reason: Reason
    detail: str = ""
    edit_id: str | None = None
    fired: StreamedCase | None = None
    score: float | None = None
    overlap: float | None = None


@dataclass(frozen=True, slots=True)
class FailureList:
    """Failures of one kind of question.

    Attributes
    ----------
    reasons
        Reason to count, of all failures.
    shown
        The first of them in the order of the stream.
    """

    key: GroupKey
    asked: int
    reasons: Mapping[Reason, int]
    shown: Sequence[Failure]

    @property
    def count(self) -> int:
        """All failures."""
        return sum(self.reasons.values())


def failures(run: Run, most: int = SHOWN) -> Iterator[FailureList]:
    """Yield the failures of every arm with a codebook, and of retrieval, at the last checkpoint."""
    for key, records in run.groups.items():
        if key.checkpoint != run.last or key.arm == BASE:
            continue
        explain, routed = _explainer(run, key), key.arm in run.routed
        found = [(record, reason) for record in records if (reason := _reason(record, routed)) is not None]
        if not found:
            continue
        counts: dict[Reason, int] = defaultdict(int)
        for record, reason in found:
            counts[explain(record, reason).reason] += 1
        yield FailureList(key, len(records), dict(counts), [explain(*pair) for pair in found[:most]])


def asked_text(record: Record) -> str:
    """Return what was asked, the turns of a chat one a line."""
    question = record.question
    if question.prompt is not None:
        return question.prompt
    if len(question.messages) == 1:
        return question.messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in question.messages)


def _reason(record: Record, routed: bool) -> Reason | None:
    """Return why a record is a failure; None when it is none, or when its protocol knows no right and wrong."""
    kind, fired, expected = record.question.kind, record.answer.edit_id is not None, record.expected_edit
    if kind in SILENT or kind is QuestionKind.ROLLED_BACK:
        if fired:
            return Reason.FIRED
        return Reason.CHANGED if record.metrics.get("unchanged") == 0 else None
    wrong = _is_wrong(record)
    # Overlap is no proof: a passage is also listed where the edit of its case did not answer.
    strayed = routed and (not fired or (expected is not None and expected != record.answer.edit_id))
    if wrong is None or not (wrong or (strayed and record.question.protocol is Protocol.PASSAGE)):
        return None
    if not fired:
        return Reason.NOT_FIRED
    if expected is None:
        return Reason.UNKNOWN_EDIT
    return Reason.WRONG_TEXT if expected == record.answer.edit_id else Reason.OTHER_EDIT


def _is_wrong(record: Record) -> bool | None:
    """Return whether a text is wrong; None where nothing judges it."""
    metrics = record.metrics
    if record.question.protocol is Protocol.PASSAGE:
        overlap = metrics.get("rougeL")
        return None if overlap is None else overlap < PASSAGE_BOUND and metrics.get("contains") != 1
    right = metrics.get(_RIGHT.get(record.question.protocol, ""))
    return None if right is None else right == 0


def _explainer(run: Run, key: GroupKey) -> Callable[[Record, Reason], Failure]:
    about, unrouted = run.info.arm(key.arm), key.arm not in run.routed
    edits = {} if about is None else _edits(run, about)
    judged = () if about is None else about.superseding if key.kind is QuestionKind.SUPERSEDED else about.edits
    failed = {edit.position: edit.failure for edit in judged if edit.failure is not None}

    def explain(record: Record, reason: Reason) -> Failure:
        position, base = record.question.position, run.base_of(record)
        code = failed.get(-1 if position is None else position, "")
        if code and reason in _OF_EDITS:
            reason = Reason.EDIT_FAILED
        if unrouted:
            reason = Reason.OTHER_TEXT if reason in _OF_EDITS else Reason.OTHER_THAN_BEFORE
        return Failure(
            position=position,
            asked=asked_text(record),
            targets=record.question.targets,
            answer=record.answer.text,
            base=None if base is None else base.answer.text,
            reason=reason,
            detail=code if reason is Reason.EDIT_FAILED else "",
            edit_id=record.answer.edit_id,
            fired=edits.get(record.answer.edit_id or ""),
            score=record.answer.score,
            overlap=record.metrics.get("rougeL"),
        )

    return explain


def _edits(run: Run, arm: ArmInfo) -> dict[str, StreamedCase]:
    """Return what each edit of an arm says; of one that took another's place, the new answer is in its question."""
    stream = run.info.stream
    new = {
        record.question.position: record.question.targets[0]
        for key, records in run.groups.items()
        if (key.arm, key.kind) == (arm.name, QuestionKind.SUPERSEDED)
        for record in records
        if record.question.targets
    }
    known = {
        edit.edit_id: stream[edit.position]
        for edit in reversed(arm.edits)
        if edit.edit_id is not None and edit.position < len(stream)
    }
    return known | {
        edit.edit_id: stream[edit.position].model_copy(update={"target": new[edit.position]})
        for edit in arm.superseding
        if edit.edit_id is not None and edit.position in new and edit.position < len(stream)
    }
