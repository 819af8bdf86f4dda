"""Continuations as they may be compared: of one length, or at least long enough to repeat themselves."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from horen_vllm.evals.records import Protocol, Record
from horen_vllm.evals.scoring import long_enough

_NEED_LENGTH: Final = frozenset({"repetition", "ngram_entropy"})


def comparable(records: Sequence[Record]) -> Sequence[Record]:
    """Return the records of a group without what cannot be compared; those of other protocols as they are.

    The first version let a model end its continuation when it liked. Of such an answer repetition and entropy count
    only where it is long enough; beside answers of an exact length, in a run that was begun then and gone on with, it
    does not count at all.
    """
    exact = [record for record in records if record.question.min_tokens is not None]
    return [_measured(record) for record in exact or records]


def _measured(record: Record) -> Record:
    if record.question.protocol is not Protocol.CONTINUATION or "long_enough" in record.metrics:
        return record
    enough = long_enough(record.question, record.answer)
    kept = {name: value for name, value in record.metrics.items() if enough or name not in _NEED_LENGTH}
    return replace(record, metrics=kept | {"long_enough": float(enough)})
