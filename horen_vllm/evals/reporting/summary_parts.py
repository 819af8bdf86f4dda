"""What ``summary.json`` holds. All numbers are shares from 0 to 1 unless their name says seconds, bits or bytes."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

from horen_vllm.evals.metrics.intervals import Estimate
from horen_vllm.evals.records import Protocol, QuestionKind
from horen_vllm.evals.reporting.run_info import RunInfo


class Part(BaseModel):
    """Anything of a summary: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _rounded(value: float) -> float:
    return round(value, 6)


Rounded = Annotated[float, AfterValidator(_rounded)]


class Number(Part):
    """A number with its 95 % interval."""

    value: Rounded
    low: Rounded
    high: Rounded
    count: int
    """Answers behind it."""
    method: Literal["bootstrap", "wilson"]
    """How the interval was found: drawing the cases again, or Wilson's."""

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        """Return the number of an estimate."""
        return cls(
            value=estimate.value, low=estimate.low, high=estimate.high, count=estimate.count, method=estimate.method
        )


class Group(Part):
    """All metrics of one kind of question, asked of one arm at one checkpoint by one protocol."""

    arm: str
    checkpoint: int
    protocol: Protocol
    kind: QuestionKind
    questions: int
    cases: int
    metrics: dict[str, Number]


class Overall(Part):
    """The three of one arm at one checkpoint, and their geometric mean.

    Attributes
    ----------
    worth
        Metric of reliability and generalisation.
    locality_of
        Protocol, kind and metric of the locality, as ``PROTOCOL/KIND/METRIC``; None when there is none.
    op
        Overall performance; None when one of the three is missing.
    """

    arm: str
    checkpoint: int
    protocol: Protocol
    worth: str
    reliability: Number | None = None
    generalisation: Number | None = None
    locality: Number | None = None
    locality_of: str | None = None
    op: Number | None = None


class FalseFires(Part):
    """How often an edit fires where none may."""

    arm: str
    checkpoint: int
    protocol: Protocol
    kind: QuestionKind
    fired: int
    share: Number
    per_10_000: Rounded
    changed: Number | None = None
    """Answers that are not the base model's, fired or not."""


class EqualRate(Part):
    """What edits are worth at the score above which so many negatives fire.

    Attributes
    ----------
    protocol
        Of the edits and rephrases.
    negatives_protocol, negatives
        Which negatives.
    rate
        Share of the negatives that may fire; None for the codebook's own threshold.
    limit
        Scores must be above it; None when the own threshold is the bound.
    bounded_by_own_threshold
        The negatives fire no more often as it is, so a lower threshold might make more of the edits: the numbers are
        lower bounds.
    """

    arm: str
    checkpoint: int
    protocol: Protocol
    worth: str
    negatives_protocol: Protocol
    negatives: QuestionKind
    rate: float | None = None
    limit: Rounded | None = None
    negatives_fire: Number
    reliability: Number | None = None
    generalisation: Number | None = None
    bounded_by_own_threshold: bool


class AgeBand(Part):
    """Edits that were submitted one after the other."""

    first: int
    """Position of the first, from 0."""
    last: int
    worth: Number


class Forgetting(Part):
    """Reliability by age of the edit, at the last checkpoint.

    Attributes
    ----------
    bands
        Tenths of the stream, the oldest edits first; those of which no edit was asked are left out.
    older_minus_newer
        Mean of the older half of the stream less that of the newer half; below 0 when edits are forgotten.
    """

    arm: str
    checkpoint: int
    protocol: Protocol
    worth: str
    bands: tuple[AgeBand, ...]
    older_minus_newer: Number | None = None


class Spread(Part):
    """Mean, median and 99th percentile of a time in seconds."""

    count: int
    mean: Rounded
    p50: Rounded
    p99: Rounded
    most: Rounded


class Latency(Part):
    """Time from request to whole answer, under the load of the run's own concurrency.

    Arms are asked one after the other, each with a load and a state of the server of its own, and their answers are not
    equally long: a difference between two of them is not what a codebook costs.

    Attributes
    ----------
    tokens
        Mean number of generated tokens.
    lookup_seconds
        What comes on top of each answer for finding its facts, on average; None for an arm that looks nothing up.
    """

    arm: str
    protocol: Protocol
    seconds: Spread
    tokens: Rounded
    lookup_seconds: Rounded | None = None


class Growth(Part):
    """A codebook at a checkpoint, and what the edits since the last one took.

    Attributes
    ----------
    threshold
        A score must be above it; with an `anchored_threshold`, the score of an edit without a subject. None for a
        codebook that decides by distance.
    anchored_threshold
        The score of an edit with a subject must be above it; None where no entry is bound to a subject.
    radius
        First radius of an edit of a codebook that decides by distance, whose scores are distances below 0.
    submitted
        Edits since the last checkpoint.
    seconds
        Until they were all served or had failed.
    seconds_per_edit
        None where no edit was submitted, or where an earlier start of the run had submitted some of them.
    """

    checkpoint: int
    entries: int
    threshold: float | None = None
    anchored_threshold: float | None = None
    radius: float | None = None
    memory_bytes: int | None = None
    submitted: int
    """Edits since the last checkpoint."""
    seconds: Rounded | None = None
    """Until they were all served or had failed; None where more than one start of the run submitted them."""
    seconds_per_edit: Rounded | None = None


class Editing(Part):
    """What became of the edits of one arm.

    Attributes
    ----------
    failures
        Count by code.
    seconds
        Of one edit, from its submission until it was published or had failed; None when nothing was measured.
    """

    arm: str
    submitted: int
    served: int
    failures: dict[str, int]
    seconds: Spread | None = None
    growth: tuple[Growth, ...]


class Summary(Part):
    """Everything that a run comes to.

    Attributes
    ----------
    run
        The run's description without the lists of its edits.
    finished
        Whether the run came to its end; without it numbers are of what was asked until then.
    records
        Answers behind it.
    bootstrap_seed
        Decides the drawing of cases.
    """

    format: Literal[1] = 1
    run: RunInfo
    finished: bool
    records: int
    bootstrap_seed: int
    overall: tuple[Overall, ...]
    false_fires: tuple[FalseFires, ...]
    equal_rates: tuple[EqualRate, ...]
    forgetting: tuple[Forgetting, ...]
    latency: tuple[Latency, ...]
    editing: tuple[Editing, ...]
    groups: tuple[Group, ...]
