"""Two runs beside each other: paired by question where both asked it, and what differs in how they were made."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from math import comb, fsum
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.metrics.intervals import Sample, difference, paired_difference
from horen_vllm.evals.records import Protocol, QuestionKind, Record
from horen_vllm.evals.reporting.run_info import RunInfo
from horen_vllm.evals.reporting.run_records import GroupKey, Run, load_run
from horen_vllm.evals.reporting.samples import number_of, sample_of
from horen_vllm.evals.reporting.summary import SEED_NAME
from horen_vllm.evals.reporting.summary_parts import Number, Part, Rounded

_UNTOLD: Final = frozenset(
    {"format", "stream", "times", "started_at", "finished_at", "command", "name", "notes", "arms", "memory_baseline"}
)
"""Fields of a description that differ in any two runs, or are compared otherwise."""
_LEAST_PAIRED: Final = 0.5
"""Share of the smaller sample's questions that the other one must have, for a paired difference."""

_EQUAL: Final = 1e-9
"""Means that differ by no more are equal: what is left of sums in floating point."""


class Differing(Part):
    """A setting that is not the same in both; None where one run does not have it."""

    name: str
    first: JsonValue = None
    second: JsonValue = None


class Compared(Part):
    """One metric of one kind of question in both runs.

    Attributes
    ----------
    difference
        Second less first, with its interval: paired by question, or of two independent samples.
    paired
        Whether it is of the questions that both runs asked.
    better, worse
        Of a pair, cases whose mean value is higher or lower in the second run: answers of one case (an edit's
        rephrases) are not independent.
    p_value
        Exact two-sided sign test of `better` against `worse` (McNemar's for one yes or no a case); None when nothing is
        paired. One among many: with many lines some are small by chance.
    """

    first_arm: str
    second_arm: str
    checkpoint: int
    protocol: Protocol
    kind: QuestionKind
    metric: str
    first: Number
    second: Number
    difference: Number
    paired: bool
    better: int = 0
    worse: int = 0
    p_value: Rounded | None = None


class Comparison(Part):
    """Two runs beside each other.

    Attributes
    ----------
    differing
        What differs in settings, versions, data, model and method parameters.
    only_first, only_second
        Groups that only one of the runs has, as ``ARM/CHECKPOINT/PROTOCOL/KIND``. An arm that is not compared counts
        where the other run has none of its name.
    metrics_only_first, metrics_only_second
        Metrics that only one of the runs has, of groups that both have, as ``ARM/CHECKPOINT/PROTOCOL/KIND/METRIC``.
    """

    first: str
    second: str
    differing: tuple[Differing, ...]
    compared: tuple[Compared, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    metrics_only_first: tuple[str, ...]
    metrics_only_second: tuple[str, ...]


def compare_folders(first: Path, second: Path, arms: Mapping[str, str] | None = None) -> Comparison:
    """Compare the runs in two folders; errors as `load_run` and `compare`."""
    return compare(load_run(first), load_run(second), arms, names=(str(first), str(second)))


def compare(
    first: Run, second: Run, arms: Mapping[str, str] | None = None, *, names: tuple[str, str] | None = None
) -> Comparison:
    """Return two runs beside each other.

    Parameters
    ----------
    arms
        Arm of the first run to the arm of the second that it is compared with; those of the same name by default.
    names
        What the runs are called; by default their own names.

    Raises
    ------
    InvalidArgument
        ``invalid_arms``: `arms` names one that its run does not have.
    """
    for run, wanted in ((first, arms or {}), (second, (arms or {}).values())):
        for arm in wanted:
            if arm not in run.arms:
                message = f"run {run.info.name} has no arm {arm!r}: it has {', '.join(run.arms)}."
                raise InvalidArgument(message, code="invalid_arms")
    pairs = {arm: arm for arm in first.arms if arm in second.arms} if arms is None else dict(arms)
    seed = first.info.seeds.get(SEED_NAME, 0)
    met = [(key, other) for key in first.groups if (other := _renamed(key, pairs)) in second.groups]
    lone = [_alone(first, second, met), _alone(second, first, [(other, key) for key, other in met])]
    back = {other: one for one, other in pairs.items()}
    return Comparison(
        first=first.info.name if names is None else names[0],
        second=second.info.name if names is None else names[1],
        differing=tuple(differing(first.info, second.info, pairs)),
        compared=tuple(one for pair in met for one in _compared(first, second, *pair, seed)),
        only_first=_only(first, second, pairs),
        only_second=_only(second, first, back),
        metrics_only_first=lone[0],
        metrics_only_second=lone[1],
    )


def differing(first: RunInfo, second: RunInfo, arms: Mapping[str, str]) -> Iterator[Differing]:
    """Yield what differs in how two runs were made, the parameters of the compared arms included."""
    said = _told(first, {one: one for one in arms}), _told(second, {other: one for one, other in arms.items()})
    for name in sorted(said[0].keys() | said[1].keys()):
        values = said[0].get(name), said[1].get(name)
        if values[0] != values[1]:
            yield Differing(name=name, first=values[0], second=values[1])


def sign_test(better: int, worse: int) -> float:
    """Return the two-sided p-value of so many gains and losses if either were as likely (exact binomial)."""
    total, fewer = better + worse, min(better, worse)
    tail = sum(comb(total, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << total))


def _renamed(key: GroupKey, arms: Mapping[str, str]) -> GroupKey:
    return key._replace(arm=arms.get(key.arm, ""))


def _only(run: Run, other: Run, arms: Mapping[str, str]) -> tuple[str, ...]:
    """Return the groups of a run that the other one lacks; of arms that are not compared, those of no arm of theirs."""
    lone = (
        key
        for key in run.groups
        if (_renamed(key, arms) not in other.groups if key.arm in arms else key.arm not in other.arms)
    )
    return tuple("/".join(map(str, key)) for key in lone)


def _alone(run: Run, other: Run, met: Sequence[tuple[GroupKey, GroupKey]]) -> tuple[str, ...]:
    """Return the metrics of a run's groups that the other one's do not have."""
    names = [(key, _metrics(run.groups[key]) - _metrics(other.groups[twin])) for key, twin in met]
    return tuple("/".join([*map(str, key), name]) for key, lone in names for name in sorted(lone))


def _metrics(records: Sequence[Record]) -> set[str]:
    return {name for record in records for name in record.metrics}


def _compared(first: Run, second: Run, key: GroupKey, other: GroupKey, seed: int) -> Iterator[Compared]:
    ours, theirs = ({_identity(run, one): one for one in run.groups[at]} for run, at in ((first, key), (second, other)))
    for metric in sorted(_metrics(list(ours.values()))):
        sides = [[one for one in side.values() if metric in one.metrics] for side in (ours, theirs)]
        both = [
            (one, twin)
            for identity, one in ours.items()
            if metric in one.metrics and (twin := theirs.get(identity)) is not None and metric in twin.metrics
        ]
        # Of two draws that hardly overlap, the overlap says less than the draws.
        paired = bool(both) and len(both) >= _LEAST_PAIRED * min(map(len, sides))
        if paired:
            sides = [list(side) for side in zip(*both, strict=True)]
        samples = [sample_of(side, metric) for side in sides]
        means = [number_of(sample, seed, metric) for sample in samples]
        if samples[0] is not None and samples[1] is not None and means[0] is not None and means[1] is not None:
            told = _paired(samples[0], samples[1], seed) if paired else _unpaired(samples[0], samples[1], seed)
            place = {"checkpoint": key.checkpoint, "protocol": key.protocol, "kind": key.kind, "metric": metric}
            arms = {"first_arm": key.arm, "second_arm": other.arm}
            yield Compared.model_validate(arms | place | {"first": means[0], "second": means[1]} | told)


def _paired(first: Sample, second: Sample, seed: int) -> dict[str, Any]:
    gains: dict[Hashable, list[float]] = defaultdict(list)
    for case, before, after in zip(first.cases, first.values, second.values, strict=True):
        gains[case].append(after - before)
    means = [fsum(each) / len(each) for each in gains.values()]
    better, worse = sum(mean > _EQUAL for mean in means), sum(mean < -_EQUAL for mean in means)
    found = paired_difference(first.values, second.values, seed=seed, cases=first.cases)
    tested = {"better": better, "worse": worse, "p_value": sign_test(better, worse)}
    return {"difference": Number.of(found), "paired": True} | tested


def _unpaired(first: Sample, second: Sample, seed: int) -> dict[str, Any]:
    return {"difference": Number.of(difference(first, second, seed=seed)), "paired": False}


def _identity(run: Run, record: Record) -> tuple[str, ...]:
    """Return what two runs' records of one question have in common: key, text and targets.

    The text is the base model's, where there is one: retrieval puts facts before it.
    """
    question = (run.base_of(record) or record).question
    turns = [f"{message.role}: {message.content}" for message in question.messages]
    return record.question.question_id.split("/", 2)[-1], question.prompt or "", *turns, *record.question.targets


def _told(info: RunInfo, names: Mapping[str, str]) -> dict[str, JsonValue]:
    """Return what is compared of a description by path; the arms that `names` has, under the names that it gives."""
    told = _flat("", info.model_dump(mode="json", exclude=set(_UNTOLD)))
    for arm in info.arms:
        if arm.name in names:
            told |= _flat(f"arms.{names[arm.name]}", {"preset": arm.preset, "parameters": arm.parameters})
    return told


def _flat(name: str, value: JsonValue) -> dict[str, JsonValue]:
    """Return every leaf of a JSON value by its path."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    found: dict[str, JsonValue] = {}
    for key, item in value.items():
        found |= _flat(f"{name}.{key}" if name else key, item)
    return found
