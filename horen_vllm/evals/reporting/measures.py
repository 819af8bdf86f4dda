"""Which measures stand for what: what an edit, a rephrase and a negative are judged by in each protocol."""

from dataclasses import dataclass
from typing import Final

from horen_vllm.evals.records import Protocol, QuestionKind

NEGATIVES: Final = (
    QuestionKind.UNRELATED,
    QuestionKind.NEAR,
    QuestionKind.SAME_SUBJECT,
    QuestionKind.ORDINARY,
    QuestionKind.ABILITY,
)
"""Kinds for which no edit may fire."""
SILENT: Final = (*NEGATIVES, QuestionKind.SHORT)
"""The same, with what is too short to say which edit is meant."""
ROBUSTNESS: Final = (
    QuestionKind.LONG_SYSTEM,
    QuestionKind.FEW_SHOT,
    QuestionKind.TURN_1,
    QuestionKind.TURN_3,
    QuestionKind.TURN_5,
    QuestionKind.TYPO,
)
"""Kinds that ask an edited question in other surroundings."""
PORTABILITY: Final = (QuestionKind.PORTABILITY, QuestionKind.PERSONA, QuestionKind.MULTI_HOP)
"""Kinds that ask for what follows from an edit."""

NO_SHARES: Final = frozenset({"ngram_entropy", "semantic"})
"""Metrics that are not from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric of one kind of question."""

    protocol: Protocol
    kind: QuestionKind
    metric: str

    def __str__(self) -> str:
        """Return ``PROTOCOL/KIND/METRIC``."""
        return f"{self.protocol}/{self.kind}/{self.metric}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trio:
    """What the three of one protocol are measured by.

    Attributes
    ----------
    worth
        Metric of an answer to an edited or rephrased question.
    locality
        Measures of locality, best first: the first that a run has counts, at all of its checkpoints.
    negatives
        Protocol by which negatives are asked that are routed as these questions are.
    """

    worth: str
    locality: tuple[Measure, ...]
    negatives: Protocol


TRIOS: Final = {
    Protocol.PAPER: Trio(
        worth="token_accuracy",
        locality=tuple(
            Measure(Protocol.PAPER, kind, "locality_paper")
            for kind in (QuestionKind.UNRELATED, QuestionKind.NEAR, QuestionKind.SAME_SUBJECT)
        ),
        negatives=Protocol.PAPER,
    ),
    Protocol.STRICT: Trio(
        worth="normalised",
        locality=tuple(
            Measure(Protocol.FIRE, kind, "unchanged")
            for kind in (QuestionKind.UNRELATED, QuestionKind.NEAR, QuestionKind.SAME_SUBJECT)
        ),
        negatives=Protocol.FIRE,
    ),
    Protocol.PASSAGE: Trio(
        worth="rougeL",
        locality=tuple(
            Measure(Protocol.FIRE, kind, "unchanged")
            for kind in (QuestionKind.UNRELATED, QuestionKind.NEAR, QuestionKind.ORDINARY, QuestionKind.SAME_SUBJECT)
        ),
        negatives=Protocol.FIRE,
    ),
}
"""Protocols that judge edits: reliability is the worth of an edit's own prompt, generalisation of its rephrases."""
