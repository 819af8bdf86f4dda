"""Two runs beside each other, against values worked out by hand."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.records import QuestionKind, Record
from horen_vllm.evals.reporting.compare import compare, compare_folders, sign_test
from horen_vllm.evals.reporting.run_info import ArmInfo
from horen_vllm.evals.reporting.run_records import Run, grouped
from tests.unit.evals.reporting.made_runs import World, info, made, record


def run(values: Sequence[float], *, arm: str = "cosine", prompt: str = "What is it?") -> Run:
    """Return a run with one answer of each value."""
    return grouped(info(), answers(values, arm=arm, prompt=prompt))


def answers(values: Sequence[float], *, arm: str = "cosine", prompt: str = "What is it?") -> list[Record]:
    """Return an answer of each value."""
    return [
        record(arm=arm, case=case, prompt=prompt, metrics={"normalised": value}) for case, value in enumerate(values)
    ]


def test_what_both_asked_is_paired() -> None:
    (found,) = compare(run([1, 0, 0, 0, 1, 1]), run([1, 1, 1, 1, 0, 1])).compared
    assert (found.first.value, found.second.value) == pytest.approx((0.5, 5 / 6), abs=1e-6)
    assert found.paired
    assert found.difference.value == pytest.approx(2 / 6, abs=1e-6)
    assert (found.better, found.worse) == (3, 1)
    # 2 * (1 + 4) / 16
    assert found.p_value == 0.625


def test_cases_and_not_answers_get_better_or_worse() -> None:
    def of(values: dict[int, Sequence[float]]) -> Run:
        asked = [
            record(case=case, part=part, metrics={"rougeL": value})
            for case, each in values.items()
            for part, value in enumerate(each)
        ]
        return grouped(info(), asked)

    before = of({0: [0.0] * 8, 1: [0.5, 0.5], 2: [0.1, 0.2], 3: [0.3]})
    after = of({0: [1.0] * 8, 1: [0.0, 0.0], 2: [0.2, 0.1], 3: [0.0]})
    (found,) = compare(before, after).compared
    # Eight answers of one case are better, of another one answer is and one is not: its mean stays.
    assert (found.better, found.worse, found.p_value) == (1, 2, 1.0)


def test_only_the_questions_that_both_asked_count_where_most_are_common() -> None:
    (found,) = compare(run([1, 1, 1, 0]), run([0, 0, 0])).compared
    assert found.paired
    assert (found.first.value, found.first.count, found.second.count) == (1.0, 3, 3)
    assert found.difference.value == -1.0


def test_questions_with_other_texts_are_two_samples() -> None:
    (found,) = compare(run([1, 1, 0, 0]), run([1, 1, 1, 0], prompt="Another?")).compared
    assert not found.paired
    assert found.p_value is None
    assert found.difference.value == 0.25
    assert found.difference.low < 0.25 < found.difference.high


def test_what_retrieval_puts_before_a_question_does_not_part_a_pair() -> None:
    def told(fact: str) -> Run:
        base = record(arm="base", checkpoint=0, metrics={"normalised": 0.0})
        asked = record(arm="retrieval", prompt=f"{fact} What is it?", metrics={"normalised": 1.0})
        return grouped(info(), [base, asked])

    found = {one.first_arm: one for one in compare(told("It is a."), told("It is b.")).compared}
    assert found["retrieval"].paired
    assert found["base"].paired


def test_arms_are_compared_as_named() -> None:
    first, second = run([1, 0]), run([1, 1], arm="grace")
    assert compare(first, second).compared == ()
    assert compare(first, second).only_first == ("cosine/10/paper/edit",)
    assert compare(first, second).only_second == ("grace/10/paper/edit",)
    named = compare(first, second, {"cosine": "grace"})
    assert [(one.first_arm, one.second_arm, one.better) for one in named.compared] == [("cosine", "grace", 1)]
    assert (named.only_first, named.only_second) == ((), ())


def test_arms_that_both_have_are_not_told_as_missing_where_others_are_compared() -> None:
    def of(*arms: str) -> Run:
        return grouped(info(), [one for arm in arms for one in answers([1], arm=arm)])

    found = compare(of("base", "cosine", "old"), of("base", "cosine", "grace", "new"), {"cosine": "grace"})
    assert {(one.first_arm, one.second_arm) for one in found.compared} == {("cosine", "grace")}
    assert found.only_first == ("old/10/paper/edit",)
    assert found.only_second == ("new/10/paper/edit",)


def test_metrics_that_one_run_lacks_are_told() -> None:
    first = grouped(info(), [record(metrics={"rougeL": 1.0, "bleu": 0.5})])
    second = grouped(info(), [record(metrics={"rougeL": 1.0, "semantic": 0.5})])
    found = compare(first, second)
    assert [one.metric for one in found.compared] == ["rougeL"]
    assert found.metrics_only_first == ("cosine/10/paper/edit/bleu",)
    assert found.metrics_only_second == ("cosine/10/paper/edit/semantic",)
    assert (found.only_first, found.only_second) == ((), ())


@pytest.mark.parametrize("arms", [{"grace": "cosine"}, {"cosine": "grace"}])
def test_an_arm_that_is_not_there_is_refused(arms: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="no arm 'grace'") as caught:
        compare(run([1]), run([1]), arms)
    assert caught.value.code == "invalid_arms"


def test_what_differs_in_the_making_is_told() -> None:
    def about(sample: int, sha256: str, threshold: float) -> Run:
        arm = ArmInfo(name="cosine", model="tiny@a", preset="cosine", parameters={"threshold": threshold, "steps": 1})
        return grouped(
            info(arms=[arm], settings={"sample": sample, "seed": 1}, sha256=sha256), [record(metrics={"exact": 1.0})]
        )

    found = {one.name: (one.first, one.second) for one in compare(about(5, "a", 0.8), about(9, "b", 0.9)).differing}
    assert found == {
        "settings.sample": (5, 9),
        "dataset.sha256": ("a", "b"),
        "arms.cosine.parameters.threshold": (0.8, 0.9),
    }


def test_a_run_is_no_different_from_itself(tmp_path: Path) -> None:
    folder = made(tmp_path, World(edits=12, checkpoints=(12,)))
    found = compare_folders(folder, folder)
    assert found.differing == ()
    assert found.compared
    assert all(one.paired and one.difference.value == 0 and one.p_value == 1 for one in found.compared)
    assert (found.only_first, found.only_second) == ((), ())
    assert (found.metrics_only_first, found.metrics_only_second) == ((), ())


def test_kinds_that_one_run_lacks_are_told() -> None:
    more = grouped(info(), [*answers([1]), record(QuestionKind.NEAR, metrics={"locality": 1.0})])
    assert compare(more, run([1])).only_first == ("cosine/10/paper/near",)


@pytest.mark.parametrize(
    ("better", "worse", "expected"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 1 / 16), (1, 4, 0.375), (3, 3, 1.0)]
)
def test_the_sign_test(better: int, worse: int, expected: float) -> None:
    assert sign_test(better, worse) == pytest.approx(expected)


def test_the_sign_test_of_many() -> None:
    assert 0 < sign_test(3000, 2800) < 0.01
