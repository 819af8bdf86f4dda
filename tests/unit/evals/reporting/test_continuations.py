"""Continuations of runs old and new: repetition of what is long enough, and never of two lengths together."""

from dataclasses import replace
from pathlib import Path

import pytest

from horen_vllm.evals.records import Protocol, QuestionKind, Record
from horen_vllm.evals.reporting.run_records import grouped, load_run
from horen_vllm.evals.reporting.summary import summarise
from horen_vllm.evals.reporting.summary_parts import Group
from tests.unit.evals.reporting.made_runs import info, record, save


def continuation(case: int, length: int, repetition: float, *, arm: str = "cosine", exact: bool = False) -> Record:
    """Return a record as the first version wrote it, or one whose length was asked for."""
    found = record(
        QuestionKind.CONTINUE,
        Protocol.CONTINUATION,
        arm=arm,
        checkpoint=0 if arm == "base" else 10,
        case=case,
        text="a" * length,
        metrics={"repetition": repetition, "ngram_entropy": repetition, "stopped": 1.0},
    )
    if not exact:
        return found
    asked = replace(found.question, question_id=f"{found.question.question_id}-{length}", min_tokens=length)
    return replace(found, question=asked, metrics={"long_enough": 1.0, "repetition": repetition})


def group_of(*records: Record, arm: str = "cosine") -> Group:
    [found] = [one for one in summarise(grouped(info(), records)).groups if one.arm == arm]
    return found


def test_of_answers_that_ended_when_they_liked_only_the_long_ones_are_scored(tmp_path: Path) -> None:
    records = [continuation(0, 4, 0.0), continuation(1, 49, 0.0), continuation(2, 50, 0.25), continuation(3, 200, 0.75)]
    found = group_of(*records)
    assert found.questions == 4
    assert (found.metrics["long_enough"].value, found.metrics["long_enough"].count) == (0.5, 4)
    for name in ("repetition", "ngram_entropy"):
        assert (found.metrics[name].value, found.metrics[name].count) == (0.5, 2)
    assert found.metrics["stopped"].count == 4
    run = load_run(save(tmp_path, info(), records))
    assert summarise(run).groups == (found,)


def test_where_none_is_long_enough_nothing_is_said_of_repetition() -> None:
    found = group_of(*(continuation(case, 5, 0.0) for case in range(3)))
    assert found.metrics["long_enough"].value == 0.0
    assert not {"repetition", "ngram_entropy"} & found.metrics.keys()


@pytest.mark.parametrize("arm", ["base", "cosine"])
def test_a_run_that_was_gone_on_with_counts_the_equally_long_ones_alone(arm: str) -> None:
    records = [
        continuation(case, length, worth, arm=name, exact=exact)
        for name in ("base", "cosine")
        for case, length, worth, exact in ((0, 90, 0.0, False), (1, 90, 0.0, False), (0, 200, 0.5, True))
    ]
    found = group_of(*records, arm=arm)
    assert (found.questions, found.metrics["repetition"].value) == (1, 0.5)
