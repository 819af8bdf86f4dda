"""A run as it is read: its description and its records, in groups."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from horen_vllm.evals.asking.store import read_records
from horen_vllm.evals.questions.drafts import BASE, base_question_id
from horen_vllm.evals.records import Protocol, QuestionKind, Record
from horen_vllm.evals.reporting.continuations import comparable
from horen_vllm.evals.reporting.run_info import RECORDS_FILE, RunInfo


class GroupKey(NamedTuple):
    """What the records of one group have in common."""

    arm: str
    checkpoint: int
    protocol: Protocol
    kind: QuestionKind


Groups = Mapping[GroupKey, Sequence[Record]]


@dataclass(frozen=True, slots=True)
class Run:
    """A run's description and its records in groups.

    Attributes
    ----------
    groups
        In the order of arms, checkpoints, protocols and kinds. The base model is asked everything once, before any
        edit: its answers stand at every checkpoint whose questions they belong to.
    base
        The base model's records by question id.
    """

    info: RunInfo
    groups: Groups
    base: Mapping[str, Record]

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms that have records, in the order of the description."""
        found = {key.arm for key in self.groups}
        named = [arm.name for arm in self.info.arms if arm.name in found]
        return (*named, *sorted(found - set(named)))

    @property
    def routed(self) -> tuple[str, ...]:
        """Arms with a codebook, by the description or by what their answers say."""
        telling = {
            key.arm
            for key, records in self.groups.items()
            if any(record.answer.edit_id is not None or record.answer.score is not None for record in records)
        }
        telling |= {arm.name for arm in self.info.arms if arm.codebook is not None}
        return tuple(arm for arm in self.arms if arm in telling)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Checkpoints that have records, ascending."""
        return tuple(sorted({key.checkpoint for key in self.groups}))

    @property
    def last(self) -> int:
        """The last checkpoint that has records; 0 without any."""
        return max(self.checkpoints, default=0)

    def get(self, arm: str, checkpoint: int, protocol: Protocol, kind: QuestionKind) -> Sequence[Record]:
        """Return the records of a group; none when there is no such group."""
        return self.groups.get(GroupKey(arm, checkpoint, protocol, kind), ())

    def base_of(self, record: Record) -> Record | None:
        """Return the base model's record of the same question, or None."""
        return self.base.get(base_question_id(record.question.question_id))


def load_run(folder: Path) -> Run:
    """Return the run in a folder, finished or not; errors as `RunInfo.load` and `read_records`."""
    info = RunInfo.load(folder)
    path = folder / RECORDS_FILE
    return grouped(info, read_records(path) if path.exists() else ())


def grouped(info: RunInfo, records: Iterable[Record]) -> Run:
    """Return the run that a description and records make."""
    found: dict[GroupKey, list[Record]] = defaultdict(list)
    base: dict[str, Record] = {}
    wanted: dict[tuple[str, int], None] = {}
    for full in records:
        # Prompts as token ids are most of a long run, and nothing here needs them.
        record = replace(full, answer=replace(full.answer, prompt_token_ids=()))
        question = record.question
        if question.arm == BASE:
            base[question.question_id] = record
            continue
        wanted[base_question_id(question.question_id), question.checkpoint] = None
        found[_key(record, question.checkpoint)].append(record)
    for identity, record in base.items() if not wanted else ():
        wanted[identity, record.question.checkpoint] = None
    for identity, checkpoint in wanted:
        if identity in base:
            found[_key(base[identity], checkpoint)].append(base[identity])
    groups = {key: sorted(comparable(found[key]), key=_place) for key in sorted(found, key=_sorting(info))}
    return Run(info, groups, base)


def case_of(record: Record) -> str:
    """Return what a record is drawn again with: its case, or for a general question itself."""
    return record.question.case_id or record.question.question_id.split("/", 2)[-1]


def _place(record: Record) -> tuple[int, str]:
    """Return where a record stands in its group, whatever the order of the answers was."""
    return -1 if record.question.position is None else record.question.position, record.question.question_id


def _key(record: Record, checkpoint: int) -> GroupKey:
    question = record.question
    return GroupKey(question.arm, checkpoint, question.protocol, question.kind)


def _sorting(info: RunInfo) -> Callable[[GroupKey], tuple[int, str, int, int, int]]:
    """Return the key that sorts groups by arm as the description has them, checkpoint, protocol and kind."""
    arms = {arm.name: number for number, arm in enumerate(info.arms)}
    protocols, kinds = list(Protocol), list(QuestionKind)

    def place(key: GroupKey) -> tuple[int, str, int, int, int]:
        numbers = protocols.index(key.protocol), kinds.index(key.kind)
        return arms.get(key.arm, len(arms)), key.arm, key.checkpoint, *numbers

    return place
