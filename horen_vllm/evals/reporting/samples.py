"""Values of one metric as a sample with the cases that they belong to."""

from collections.abc import Sequence

from horen_vllm.evals.metrics.intervals import Sample, bootstrap_mean, mean_with_interval
from horen_vllm.evals.records import Record
from horen_vllm.evals.reporting.measures import NO_SHARES
from horen_vllm.evals.reporting.run_records import case_of
from horen_vllm.evals.reporting.summary_parts import Number


def sample_of(records: Sequence[Record], metric: str) -> Sample | None:
    """Return the values of a metric of those records that have it; None when none has."""
    found = [(record.metrics[metric], case_of(record)) for record in records if metric in record.metrics]
    if not found:
        return None
    values, cases = zip(*found, strict=True)
    return Sample(values, cases)


def number_of(sample: Sample | None, seed: int, metric: str = "") -> Number | None:
    """Return the mean of a sample with its interval; None of none."""
    if sample is None:
        return None
    # Wilson's interval is one of shares, and nothing but zeros does not make a share.
    make = bootstrap_mean if metric in NO_SHARES else mean_with_interval
    return Number.of(make(sample.values, seed=seed, cases=sample.cases))
