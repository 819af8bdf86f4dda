"""A run's summary, against values worked out by hand."""

import random
from math import sqrt
from pathlib import Path

import pytest
from pydantic import JsonValue

from horen_vllm.errors import InvalidArgument, NotFound
from horen_vllm.evals.metrics.intervals import wilson
from horen_vllm.evals.records import Protocol, QuestionKind, Record
from horen_vllm.evals.reporting.measures import Measure
from horen_vllm.evals.reporting.run_info import LOOK_UP, SUMMARY_FILE, ArmInfo, CodebookState, EditOutcome, PhaseTime
from horen_vllm.evals.reporting.run_records import grouped, load_run
from horen_vllm.evals.reporting.summary import load_summary, summarise, write_summary
from horen_vllm.evals.reporting.summary_parts import EqualRate, Group, Growth, Summary
from tests.unit.evals.reporting.made_runs import World, info, made, record, save

EDIT, REPHRASE, NEAR, UNRELATED = QuestionKind.EDIT, QuestionKind.REPHRASE, QuestionKind.NEAR, QuestionKind.UNRELATED
ORDINARY = QuestionKind.ORDINARY
PAPER, STRICT, FIRE = Protocol.PAPER, Protocol.STRICT, Protocol.FIRE


def summary_of(*records: Record, arms: tuple[ArmInfo, ...] = (), seed: int = 7) -> Summary:
    """Return the summary of a run of these records."""
    return summarise(grouped(info(arms=arms, seeds={"bootstrap": seed}), records))


def group(summary: Summary, arm: str, kind: QuestionKind, protocol: Protocol = PAPER, checkpoint: int = 10) -> Group:
    """Return the one group of that place."""
    place = (arm, kind, protocol, checkpoint)
    (found,) = [one for one in summary.groups if (one.arm, one.kind, one.protocol, one.checkpoint) == place]
    return found


def test_a_group_has_the_mean_of_every_metric_and_says_of_how_many() -> None:
    summary = summary_of(
        record(case=0, metrics={"token_accuracy": 1.0, "exact": 1.0}),
        record(case=1, metrics={"token_accuracy": 0.5, "exact": 0.0}),
        record(case=1, part=1, metrics={"token_accuracy": 0.0}),
    )
    found = group(summary, "cosine", EDIT)
    assert (found.questions, found.cases) == (3, 2)
    assert found.metrics["token_accuracy"].value == 0.5
    assert found.metrics["token_accuracy"].count == 3
    assert found.metrics["token_accuracy"].method == "bootstrap"
    exact = found.metrics["exact"]
    by_hand = wilson(1, 2)
    assert (exact.value, exact.count, exact.method) == (0.5, 2, "wilson")
    assert (exact.low, exact.high) == pytest.approx((by_hand.low, by_hand.high), abs=1e-6)


def test_cases_and_not_answers_are_drawn_again() -> None:
    # Two cases, whose answers agree: the mean of a draw is 0, 1/2 or 1, never anything between.
    records = [
        record(case=case, part=part, metrics={"word_f1": float(case)}) for case in range(2) for part in range(50)
    ]
    found = group(summary_of(*records), "cosine", EDIT).metrics["word_f1"]
    assert (found.low, found.value, found.high) == (0.0, 0.5, 1.0)


def test_what_is_no_share_gets_no_interval_of_shares() -> None:
    records = [record(QuestionKind.CONTINUE, case=case, metrics={"ngram_entropy": 0.0}) for case in range(5)]
    assert group(summary_of(*records), "cosine", QuestionKind.CONTINUE).metrics["ngram_entropy"].method == "bootstrap"


def test_the_base_model_stands_at_every_checkpoint_with_the_questions_that_were_asked_there() -> None:
    asked = [record(arm="base", checkpoint=0, case=case, metrics={"exact": float(case == 0)}) for case in range(3)]
    asked += [record(checkpoint=10, case=0, metrics={"exact": 1.0})]
    asked += [record(checkpoint=20, case=case, metrics={"exact": 1.0}) for case in range(2)]
    summary = summary_of(*asked)
    assert {(one.arm, one.checkpoint, one.questions) for one in summary.groups} == {
        ("base", 10, 1),
        ("base", 20, 2),
        ("cosine", 10, 1),
        ("cosine", 20, 2),
    }
    assert group(summary, "base", EDIT, checkpoint=20).metrics["exact"].value == 0.5
    assert summary.records == 6


def test_a_run_of_the_base_model_alone_stands_where_it_was_asked() -> None:
    summary = summary_of(record(arm="base", checkpoint=0, metrics={"exact": 1.0}))
    assert [(one.arm, one.checkpoint) for one in summary.groups] == [("base", 0)]
    assert summary.records == 1


def test_overall_performance_is_the_geometric_mean_of_the_paper() -> None:
    records = [record(case=case, metrics={"token_accuracy": value}) for case, value in enumerate((1.0, 0.5))]
    records += [record(REPHRASE, case=case, metrics={"token_accuracy": value}) for case, value in enumerate((0.5, 0.5))]
    records += [record(NEAR, case=case, metrics={"locality_paper": 0.1}) for case in range(2)]
    records += [record(UNRELATED, case=case, metrics={"locality_paper": 0.9, "locality": 0.2}) for case in range(2)]
    (found,) = summary_of(*records).overall
    assert (found.protocol, found.worth, found.locality_of) == (
        PAPER,
        "token_accuracy",
        "paper/unrelated/locality_paper",
    )
    assert found.reliability is not None
    assert found.generalisation is not None
    assert found.locality is not None
    assert found.op is not None
    assert (found.reliability.value, found.generalisation.value, found.locality.value) == (0.75, 0.5, 0.9)
    assert found.op.value == pytest.approx((0.75 * 0.5 * 0.9) ** (1 / 3), abs=1e-6)
    assert found.op.low <= found.op.value <= found.op.high


def test_locality_is_that_of_near_questions_where_a_data_set_has_no_others() -> None:
    records = [record(metrics={"token_accuracy": 1.0}), record(NEAR, metrics={"locality_paper": 0.5})]
    (found,) = summary_of(*records).overall
    assert found.locality_of == "paper/near/locality_paper"
    assert found.op is None, "there are no rephrases"


@pytest.mark.parametrize(
    ("protocol", "worth", "measure"),
    [
        (PAPER, "token_accuracy", Measure(PAPER, QuestionKind.SAME_SUBJECT, "locality_paper")),
        (STRICT, "normalised", Measure(FIRE, QuestionKind.SAME_SUBJECT, "unchanged")),
        (Protocol.PASSAGE, "rougeL", Measure(FIRE, QuestionKind.SAME_SUBJECT, "unchanged")),
    ],
)
def test_locality_is_that_of_the_same_subject_where_nothing_else_was_asked(
    protocol: Protocol, worth: str, measure: Measure
) -> None:
    records = [record(kind, protocol, metrics={worth: 0.5}) for kind in (EDIT, REPHRASE)]
    records += [record(measure.kind, measure.protocol, metrics={measure.metric: 0.25})]
    (found,) = summary_of(*records).overall
    assert found.locality is not None
    assert found.op is not None
    assert (found.locality_of, found.locality.value) == (str(measure), 0.25)
    assert found.op.value == pytest.approx((0.5 * 0.5 * 0.25) ** (1 / 3), abs=1e-6)


def test_locality_means_the_same_at_all_checkpoints() -> None:
    # Of the first edits no unrelated question was left: what is near must not stand in for it there.
    records = [
        record(kind, checkpoint=at, metrics={"token_accuracy": 1.0}) for at in (1, 10) for kind in (EDIT, REPHRASE)
    ]
    records += [record(NEAR, checkpoint=at, metrics={"locality_paper": 0.5}) for at in (1, 10)]
    records += [record(UNRELATED, checkpoint=10, metrics={"locality_paper": 0.9})]
    few, all_of_them = summary_of(*records).overall
    assert (few.checkpoint, few.locality, few.locality_of, few.op) == (1, None, None, None)
    assert all_of_them.locality_of == "paper/unrelated/locality_paper"
    assert all_of_them.op is not None


def test_the_strict_protocol_takes_its_locality_from_whole_answers_in_chats() -> None:
    records = [
        record(EDIT, STRICT, metrics={"normalised": 1.0}),
        record(REPHRASE, STRICT, metrics={"normalised": 1.0}),
        record(UNRELATED, FIRE, case=0, metrics={"unchanged": 1.0}),
        record(UNRELATED, FIRE, case=1, metrics={"unchanged": 0.0}),
    ]
    (found,) = summary_of(*records).overall
    assert found.op is not None
    assert found.op.value == pytest.approx(0.5 ** (1 / 3), abs=1e-6)


def test_false_fires_are_counted_per_ten_thousand_of_what_was_asked() -> None:
    records = [
        record(
            ORDINARY,
            FIRE,
            case=None,
            part=part,
            edit_id="e1" if part < 3 else None,
            score=0.9 if part < 3 else 0.1,
            metrics={"unchanged": float(part >= 4)},
        )
        for part in range(60)
    ]
    (found,) = summary_of(*records).false_fires
    assert (found.arm, found.kind, found.fired, found.share.count) == ("cosine", ORDINARY, 3, 60)
    assert found.per_10_000 == 500
    assert found.share.low == pytest.approx(wilson(3, 60).low, abs=1e-6)
    assert found.changed is not None
    assert found.changed.value == pytest.approx(4 / 60, abs=1e-6)


def test_false_fires_of_one_case_are_drawn_together() -> None:
    records = [
        record(NEAR, FIRE, case=case, part=part, edit_id="e1" if case < 2 else None, score=0.9 if case < 2 else 0.1)
        for case in range(10)
        for part in range(6)
    ]
    summary = summary_of(*records, record(EDIT, STRICT, metrics={"normalised": 1.0}))
    (found,) = summary.false_fires
    assert (found.fired, found.share.value, found.share.count, found.share.method) == (12, 0.2, 60, "bootstrap")
    assert found.share.high - found.share.low > 1.5 * (wilson(12, 60).high - wilson(12, 60).low)
    assert equal(summary, None).negatives_fire == found.share


def test_arms_without_a_codebook_have_no_false_fires() -> None:
    records = [record(ORDINARY, FIRE, arm=arm, case=None) for arm in ("base", "retrieval")]
    assert summary_of(*records).false_fires == ()


def equal(summary: Summary, rate: float | None) -> EqualRate:
    """Return the row of that rate."""
    (found,) = [one for one in summary.equal_rates if one.rate == rate]
    return found


def test_generalisation_at_equal_false_fire_rates() -> None:
    # Of 100 negatives seven fire, with scores .91 to .97; of ten rephrases each fires, with scores .90 to .99.
    near = [
        record(
            NEAR,
            case=case,
            edit_id="e" if case < 7 else None,
            score=0.91 + case / 100 if case < 7 else 0.2,
            metrics={"locality": 1.0},
        )
        for case in range(100)
    ]
    reworded = [
        record(REPHRASE, case=case, edit_id=f"e{case}", score=0.90 + case / 100, metrics={"token_accuracy": 1.0})
        for case in range(10)
    ]
    base = [
        record(REPHRASE, arm="base", checkpoint=0, case=case, metrics={"token_accuracy": 0.25}) for case in range(10)
    ]
    summary = summary_of(*near, *reworded, *base)
    own, few, some = (equal(summary, rate) for rate in (None, 0.01, 0.05))
    assert own.generalisation is not None
    assert (own.generalisation.value, own.negatives_fire.value, own.limit) == (1.0, 0.07, None)
    # At most 1 may fire: the limit is the second highest score, .96, and above it are .97, .98 and .99.
    assert few.generalisation is not None
    assert few.limit == pytest.approx(0.96)
    assert few.negatives_fire.value == 0.01
    assert few.generalisation.value == pytest.approx((3 * 1 + 7 * 0.25) / 10)
    # At most 5: above .92 are .93 to .99.
    assert some.generalisation is not None
    assert some.limit == pytest.approx(0.92)
    assert some.generalisation.value == pytest.approx((7 * 1 + 3 * 0.25) / 10)
    assert not any(one.bounded_by_own_threshold for one in (own, few, some))


def test_a_codebook_that_fires_less_than_asked_says_that_its_threshold_is_the_bound() -> None:
    near = [record(NEAR, case=case, score=0.2, metrics={"locality": 1.0}) for case in range(100)]
    reworded = [record(REPHRASE, case=0, score=0.3, metrics={"token_accuracy": 0.5})]
    summary = summary_of(*near, *reworded)
    found = equal(summary, 0.05)
    assert found.bounded_by_own_threshold
    assert found.limit is None
    assert found.generalisation is not None
    # What was answered without an edit keeps its own worth.
    assert found.generalisation.value == 0.5


def test_forgetting_is_reliability_by_tenths_of_the_stream() -> None:
    records = [
        record(case=case, checkpoint=20, metrics={"token_accuracy": 0.0 if case < 4 else 1.0}) for case in range(20)
    ]
    records += [record(case=case, checkpoint=10, metrics={"token_accuracy": 0.0}) for case in range(10)]
    (found,) = summary_of(*records).forgetting
    assert found.checkpoint == 20
    assert [(band.first, band.last) for band in found.bands] == [(at, at + 1) for at in range(0, 20, 2)]
    assert [band.worth.value for band in found.bands] == [0.0] * 2 + [1.0] * 8
    assert found.older_minus_newer is not None
    assert found.older_minus_newer.value == pytest.approx(-0.4)
    assert found.older_minus_newer.high < 0


def test_a_stream_shorter_than_ten_has_a_band_an_edit() -> None:
    records = [record(case=case, checkpoint=3, metrics={"token_accuracy": 1.0}) for case in range(3)]
    (found,) = summary_of(*records).forgetting
    assert [(band.first, band.last) for band in found.bands] == [(0, 0), (1, 1), (2, 2)]


def test_edits_are_counted_by_outcome_and_timed() -> None:
    arm = ArmInfo(
        name="cosine",
        model="tiny@a",
        preset="cosine",
        codebook="a",
        edits=(
            EditOutcome(position=0, edit_id="e0", seconds=1.0),
            EditOutcome(position=1, edit_id="e1", seconds=3.0, failure="target_not_reached"),
            EditOutcome(position=2, failure="empty_target"),
            EditOutcome(position=3, edit_id="e3", seconds=2.0, failure="target_not_reached"),
        ),
        states=(
            CodebookState(checkpoint=1, revision=2, entries=1, threshold=0.8, submit_seconds=2.0, memory_bytes=100),
            CodebookState(checkpoint=4, revision=2, entries=1, threshold=0.8, submit_seconds=6.0),
        ),
    )
    (found,) = summary_of(record(), arms=(arm,)).editing
    assert (found.submitted, found.served) == (4, 1)
    assert found.failures == {"target_not_reached": 2, "empty_target": 1}
    assert found.seconds is not None
    assert (found.seconds.count, found.seconds.mean, found.seconds.p50, found.seconds.most) == (3, 2.0, 2.0, 3.0)
    assert [(one.submitted, one.seconds_per_edit) for one in found.growth] == [(1, 2.0), (3, 2.0)]
    assert [one.memory_bytes for one in found.growth] == [100, None]


def grown(parameters: dict[str, JsonValue], **told: float) -> Growth:
    """Return the growth of a codebook with these parameters, as far as its state tells of more than a threshold."""
    state = CodebookState.model_validate(
        {"checkpoint": 10, "revision": 2, "entries": 9, "threshold": 0.25, "submit_seconds": 5.0} | told
    )
    arm = ArmInfo(name="cosine", model="tiny@a", codebook="a", parameters=parameters, states=(state,))
    (found,) = summary_of(record(), arms=(arm,)).editing
    return found.growth[0]


def test_edits_with_a_subject_have_a_threshold_of_their_own() -> None:
    anchored: dict[str, JsonValue] = {"anchors": True, "anchored_threshold": 0.125}
    now = grown(anchored, anchored_threshold=0.5)
    assert (now.threshold, now.anchored_threshold) == (0.25, 0.5)
    # States of before did not tell; the parameters do, and say nothing where no edit is bound to its subject.
    assert grown(anchored).anchored_threshold == 0.125
    assert grown({"anchors": False, "anchored_threshold": 0.0}).anchored_threshold is None
    assert grown({}).anchored_threshold is None


def test_a_codebook_of_distances_has_no_threshold() -> None:
    found = grown({"radius": 1.0, "anchors": False, "anchored_threshold": 0.0})
    assert (found.threshold, found.anchored_threshold, found.radius) == (None, None, 1.0)


def test_time_an_edit_is_not_known_of_what_an_earlier_start_submitted() -> None:
    assert grown({}).seconds_per_edit == 0.5
    assert grown({}, resumed=4).seconds_per_edit is None


def test_latency_counts_each_answer_once() -> None:
    base = [record(arm="base", checkpoint=0, case=case, seconds=1.0 + case, text="abcd") for case in range(2)]
    asked = [record(checkpoint=at, case=case, seconds=0.5) for at in (10, 20) for case in range(2)]
    found = {one.arm: one for one in summary_of(*base, *asked).latency}
    assert (found["base"].seconds.count, found["base"].seconds.p50, found["base"].tokens) == (2, 1.5, 4.0)
    assert found["cosine"].seconds.count == 4


def test_what_retrieval_takes_to_find_facts_stands_beside_its_answers() -> None:
    times = [PhaseTime(name=LOOK_UP, arm="retrieval", checkpoint=at, seconds=at / 10, count=10) for at in (10, 30)]
    about = info().model_copy(update={"times": times})
    found = {one.arm: one for one in summarise(grouped(about, [record(), record(arm="retrieval")])).latency}
    assert found["retrieval"].lookup_seconds == 0.2
    assert found["cosine"].lookup_seconds is None


def test_a_few_tokens_of_a_prompt_must_not_fire() -> None:
    (found,) = summary_of(record(QuestionKind.SHORT, FIRE, edit_id="e0", score=0.9)).false_fires
    assert (found.kind, found.per_10_000) == (QuestionKind.SHORT, 10_000)


def test_the_order_of_the_answers_does_not_matter() -> None:
    world = World()
    records = list(world.records())
    shuffled = random.Random(1).sample(records, len(records))
    assert summarise(grouped(world.info(), records)) == summarise(grouped(world.info(), shuffled))


def test_the_seed_of_the_run_decides_the_intervals() -> None:
    records = [record(case=case, metrics={"word_f1": sqrt(case) / 7}) for case in range(40)]
    one, same, other = (group(summary_of(*records, seed=seed), "cosine", EDIT).metrics["word_f1"] for seed in (1, 1, 2))
    assert one == same
    assert one.value == other.value
    assert (one.low, one.high) != (other.low, other.high)


def test_a_summary_is_written_and_read_again(tmp_path: Path) -> None:
    made(tmp_path)
    written = write_summary(tmp_path)
    assert load_summary(tmp_path) == written
    assert written.finished
    # Lists that grow with the edits are left to run.json.
    assert written.run.stream == ()
    assert all(arm.edits == () for arm in written.run.arms)
    assert [one.submitted for one in written.editing] == [40, 40]


def test_a_run_that_goes_on_is_summarised_as_far_as_it_is(tmp_path: Path) -> None:
    save(tmp_path, info(finished=False), [record(metrics={"exact": 1.0})])
    assert not write_summary(tmp_path).finished


def test_a_run_that_has_asked_nothing_is_summarised(tmp_path: Path) -> None:
    info(finished=False).save(tmp_path)
    assert load_run(tmp_path).last == 0
    summary = write_summary(tmp_path)
    assert (summary.records, summary.groups, summary.overall) == (0, (), ())


def test_what_is_no_summary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_summary(tmp_path)
    (tmp_path / SUMMARY_FILE).write_text("{}")
    with pytest.raises(InvalidArgument) as caught:
        load_summary(tmp_path)
    assert caught.value.code == "invalid_run"
