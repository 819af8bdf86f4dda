"""How often edits fire where none may, and what they are worth where negatives fire equally often."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

from horen_vllm.evals.metrics.intervals import Sample, mean_with_interval
from horen_vllm.evals.metrics.rates import AtEqualRate, Scored, at_equal_rate
from horen_vllm.evals.records import Protocol, QuestionKind, Record
from horen_vllm.evals.reporting.measures import NEGATIVES, SILENT, TRIOS, Trio
from horen_vllm.evals.reporting.run_records import Run, case_of
from horen_vllm.evals.reporting.samples import number_of, sample_of
from horen_vllm.evals.reporting.summary_parts import EqualRate, FalseFires, Number

RATES: Final = (0.01, 0.05)
"""Shares of the negatives that may fire."""
_EDITED: Final = (QuestionKind.EDIT, QuestionKind.REPHRASE)


def false_fires(run: Run, seed: int) -> Iterator[FalseFires]:
    """Yield the false fires of every arm with a codebook, by checkpoint and kind of negative."""
    routed = run.routed
    for key, records in run.groups.items():
        if key.kind not in SILENT or key.arm not in routed:
            continue
        fired = [float(record.answer.edit_id is not None) for record in records]
        share = mean_with_interval(fired, seed=seed, cases=[case_of(record) for record in records])
        kept = sample_of(records, "unchanged")
        changed = None if kept is None else Sample([1 - value for value in kept.values], kept.cases)
        yield FalseFires(
            **key._asdict(),
            fired=int(sum(fired)),
            share=Number.of(share),
            per_10_000=share.value * 10_000,
            changed=number_of(changed, seed),
        )


def equal_rates(run: Run, seed: int) -> Iterator[EqualRate]:
    """Yield reliability and generalisation at the own threshold and at each of `RATES`, for each kind of negative."""
    for arm in run.routed:
        for checkpoint in run.checkpoints:
            for protocol, trio in TRIOS.items():
                yield from _of_protocol(run, arm, checkpoint, protocol, trio, seed)


def _of_protocol(run: Run, arm: str, checkpoint: int, protocol: Protocol, trio: Trio, seed: int) -> Iterator[EqualRate]:
    positives = {
        kind: judged
        for kind in _EDITED
        if (judged := [one for one in run.get(arm, checkpoint, protocol, kind) if trio.worth in one.metrics])
    }
    for kind in NEGATIVES if positives else ():
        negatives = run.get(arm, checkpoint, trio.negatives, kind)
        # Without a score nothing is known of another threshold.
        if not negatives or not all(map(_scored_if_fired, chain(negatives, *positives.values()))):
            continue
        for rate in (None, *RATES):
            found = {each: _at(run, ones, negatives, trio.worth, rate, seed) for each, ones in positives.items()}
            some = next(iter(found.values()))
            own, reworded = (Number.of(found[each].positives) if each in found else None for each in _EDITED)
            yield EqualRate(
                arm=arm,
                checkpoint=checkpoint,
                protocol=protocol,
                worth=trio.worth,
                negatives_protocol=trio.negatives,
                negatives=kind,
                rate=rate,
                limit=some.limit,
                negatives_fire=Number.of(some.negatives),
                reliability=own,
                generalisation=reworded,
                bounded_by_own_threshold=rate is not None and some.bounded_by_own_threshold,
            )


def _at(
    run: Run, positives: Sequence[Record], negatives: Sequence[Record], worth: str, rate: float | None, seed: int
) -> AtEqualRate:
    return at_equal_rate(
        [_scored(run, record, worth) for record in positives],
        [_scored(run, record, worth) for record in negatives],
        1.0 if rate is None else rate,
        seed=seed,
        cases=[case_of(record) for record in positives],
        negative_cases=[case_of(record) for record in negatives],
    )


def _scored(run: Run, record: Record, worth: str) -> Scored:
    """Return a record as far as a limit matters; what no edit answers, the base model does."""
    fired, value = record.answer.edit_id is not None, record.metrics.get(worth, 0.0)
    base = run.base_of(record)
    without = 0.0 if base is None else base.metrics.get(worth, 0.0)
    return Scored(fired=fired, score=record.answer.score, value=value, without=without if fired else value)


def _scored_if_fired(record: Record) -> bool:
    return record.answer.edit_id is None or record.answer.score is not None
