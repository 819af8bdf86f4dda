"""Whether older edits are answered worse than newer ones."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from horen_vllm.evals.metrics.intervals import difference
from horen_vllm.evals.records import QuestionKind, Record
from horen_vllm.evals.reporting.measures import TRIOS
from horen_vllm.evals.reporting.run_records import Run
from horen_vllm.evals.reporting.samples import number_of, sample_of
from horen_vllm.evals.reporting.summary_parts import AgeBand, Forgetting, Number

BANDS: Final = 10
"""Parts of the stream, equally long."""


def forgetting(run: Run, seed: int) -> Iterator[Forgetting]:
    """Yield reliability by place in the stream, of every arm and protocol at the last checkpoint."""
    last = run.last
    for arm in run.arms:
        for protocol, trio in TRIOS.items():
            records = [
                record
                for record in run.get(arm, last, protocol, QuestionKind.EDIT)
                if record.question.position is not None and trio.worth in record.metrics
            ]
            if records:
                yield Forgetting(
                    arm=arm,
                    checkpoint=last,
                    protocol=protocol,
                    worth=trio.worth,
                    bands=tuple(_bands(records, trio.worth, last, seed)),
                    older_minus_newer=_older_minus_newer(records, trio.worth, last, seed),
                )


def _bands(records: Sequence[Record], worth: str, total: int, seed: int) -> Iterator[AgeBand]:
    edges = sorted({number * total // BANDS for number in range(BANDS + 1)})
    for start, stop in pairwise(edges):
        number = number_of(sample_of(_between(records, start, stop), worth), seed)
        if number is not None:
            yield AgeBand(first=start, last=stop - 1, worth=number)


def _older_minus_newer(records: Sequence[Record], worth: str, total: int, seed: int) -> Number | None:
    middle = (total + 1) // 2
    older, newer = (sample_of(_between(records, *part), worth) for part in ((0, middle), (middle, total)))
    return None if older is None or newer is None else Number.of(difference(newer, older, seed=seed))


def _between(records: Sequence[Record], start: int, stop: int) -> list[Record]:
    return [record for record in records if start <= (record.question.position or 0) < stop]
