"""A run's summary, from its description and its records alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from horen_vllm.evals.metrics.intervals import bootstrap_overall
from horen_vllm.evals.records import Protocol, QuestionKind, Record
from horen_vllm.evals.reporting.ageing import forgetting
from horen_vllm.evals.reporting.costs import editing, latency
from horen_vllm.evals.reporting.files import read_model, write_whole
from horen_vllm.evals.reporting.firing import equal_rates, false_fires
from horen_vllm.evals.reporting.measures import TRIOS, Measure
from horen_vllm.evals.reporting.run_info import SUMMARY_FILE, RunInfo
from horen_vllm.evals.reporting.run_records import GroupKey, Run, case_of, load_run
from horen_vllm.evals.reporting.samples import number_of, sample_of
from horen_vllm.evals.reporting.summary_parts import Group, Number, Overall, Summary

SEED_NAME: Final = "bootstrap"
"""Name under which a run's description has the seed of the intervals; 0 when it has none."""


def summarise(run: Run) -> Summary:
    """Return what a run comes to; the same for the same records, in whatever order they were written."""
    seed = run.info.seeds.get(SEED_NAME, 0)
    return Summary(
        run=_head(run.info),
        finished=run.info.finished_at is not None,
        records=len(run.base) + sum(len(found) for key, found in run.groups.items() if key.arm != "base"),
        bootstrap_seed=seed,
        overall=tuple(_overalls(run, seed)),
        false_fires=tuple(false_fires(run, seed)),
        equal_rates=tuple(equal_rates(run, seed)),
        forgetting=tuple(forgetting(run, seed)),
        latency=tuple(latency(run)),
        editing=tuple(editing(run.info)),
        groups=tuple(_group(key, records, seed) for key, records in run.groups.items()),
    )


def write_summary(folder: Path) -> Summary:
    """Summarise the run in `folder` and write ``summary.json`` there; errors as `load_run`."""
    summary = summarise(load_run(folder))
    write_whole(folder / SUMMARY_FILE, as_text(summary))
    return summary


def as_text(summary: Summary) -> str:
    """Return a summary as JSON with one line for each group, so that two of them can be compared line by line."""
    parts = []
    for name, value in summary.model_dump(mode="json", exclude_none=True).items():
        rows = ",\n".join(f"  {json.dumps(row)}" for row in value) if isinstance(value, list) else None
        parts.append(f" {json.dumps(name)}: " + (f"[\n{rows}\n ]" if rows else json.dumps(value)))
    return "{\n" + ",\n".join(parts) + "\n}"


def load_summary(folder: Path) -> Summary:
    """Return what `write_summary` wrote.

    Raises
    ------
    NotFound
        ``run_not_found``: there is no ``summary.json``.
    InvalidArgument
        ``invalid_run``: it is no summary.
    """
    return read_model(folder / SUMMARY_FILE, Summary)


def _head(info: RunInfo) -> RunInfo:
    """Return the description without what grows with the number of edits; the summary has its own words for that."""
    arms = tuple(arm.model_copy(update={"edits": (), "superseding": ()}) for arm in info.arms)
    return info.model_copy(update={"stream": (), "arms": arms})


def _group(key: GroupKey, records: Sequence[Record], seed: int) -> Group:
    samples = {name: sample_of(records, name) for name in sorted({name for one in records for name in one.metrics})}
    return Group(
        **key._asdict(),
        questions=len(records),
        cases=len({case_of(record) for record in records}),
        metrics={name: found for name, one in samples.items() if (found := number_of(one, seed, name)) is not None},
    )


def _overalls(run: Run, seed: int) -> list[Overall]:
    found = []
    measures = _localities(run)
    for arm in run.arms:
        for checkpoint in run.checkpoints:
            each = (_overall(run, arm, checkpoint, protocol, measures, seed) for protocol in TRIOS)
            found += [one for one in each if one is not None]
    return found


def _localities(run: Run) -> dict[Protocol, Measure]:
    """Return the measure of locality of each protocol that has one: the first that any arm has at any checkpoint.

    One for the whole run: a curve whose points mean different things is none.
    """
    has = {
        Measure(key.protocol, key.kind, metric)
        for key, records in run.groups.items()
        for metric in {name for record in records for name in record.metrics}
    }
    first = {protocol: next((one for one in trio.locality if one in has), None) for protocol, trio in TRIOS.items()}
    return {protocol: measure for protocol, measure in first.items() if measure is not None}


def _overall(
    run: Run, arm: str, checkpoint: int, protocol: Protocol, measures: Mapping[Protocol, Measure], seed: int
) -> Overall | None:
    worth, measure = TRIOS[protocol].worth, measures.get(protocol)
    own, reworded = (
        sample_of(run.get(arm, checkpoint, protocol, kind), worth)
        for kind in (QuestionKind.EDIT, QuestionKind.REPHRASE)
    )
    if own is None and reworded is None:
        return None
    locality, op = None, None
    if measure is not None:
        locality = sample_of(run.get(arm, checkpoint, measure.protocol, measure.kind), measure.metric)
    if own and reworded and locality:
        op = Number.of(bootstrap_overall(own, reworded, locality, seed=seed))
    return Overall(
        arm=arm,
        checkpoint=checkpoint,
        protocol=protocol,
        worth=worth,
        reliability=number_of(own, seed),
        generalisation=number_of(reworded, seed),
        locality=number_of(locality, seed),
        locality_of=None if locality is None else str(measure),
        op=op,
    )
