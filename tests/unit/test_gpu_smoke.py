"""The GPU smoke run's verdicts can be FAIL: its checks are proved where there is no GPU."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.gpu_smoke import Result
from bench.oracle_hf import HfOracle, OracleBook, Shape, write_random_model
from bench.smoke_load import Case, Served, books, cases, judge, prompts

SHAPE = Shape(layers=3, hidden=32, inner=64, heads=2, kv_heads=1, vocabulary=1024)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> HfOracle:
    return HfOracle(write_random_model(tmp_path_factory.mktemp("model"), SHAPE), SHAPE.site)


@pytest.fixture(scope="module")
def by_name(oracle: HfOracle) -> dict[str, OracleBook]:
    return books(oracle, prompts())


@pytest.fixture(scope="module")
def asked() -> list[Case]:
    return [case for case in cases(prompts()) if len(case.prompt) < 20]


@pytest.fixture(scope="module")
def right(oracle: HfOracle, by_name: dict[str, OracleBook], asked: list[Case]) -> list[Served]:
    answers = [
        oracle.answer(case.prompt, by_name[case.codebook] if case.codebook else None, case.max_tokens) for case in asked
    ]
    return [
        Served(answer.tokens, {"edit_id": answer.edit_id} if case.codebook else None)
        for case, answer in zip(asked, answers, strict=True)
    ]


def test_right_answers_pass(
    oracle: HfOracle, by_name: dict[str, OracleBook], asked: list[Case], right: list[Served]
) -> None:
    verdict = judge(oracle, by_name, asked, right)
    assert verdict.passed, verdict
    assert verdict.matched >= 5


@pytest.mark.parametrize("fault", ["token", "edit", "silence", "leak"])
def test_one_wrong_answer_fails(
    fault: str, oracle: HfOracle, by_name: dict[str, OracleBook], asked: list[Case], right: list[Served]
) -> None:
    clean = next(index for index, case in enumerate(asked) if case.codebook is None)
    fired = next(index for index, served in enumerate(right) if served.decision and served.decision["edit_id"])
    served = list(right)
    if fault == "token":
        served[fired] = replace(right[fired], tokens=[token ^ 1 for token in right[fired].tokens])
    elif fault == "edit":
        served[fired] = replace(right[fired], decision={"edit_id": "another"})
    elif fault == "silence":
        served[fired] = replace(right[fired], decision=None)
    else:
        served[clean] = replace(right[clean], decision={"edit_id": None})
    verdict = judge(oracle, by_name, asked, served)
    assert len(verdict.wrong) == 1
    assert not verdict.passed


def test_a_load_whose_edits_change_nothing_fails(
    oracle: HfOracle, by_name: dict[str, OracleBook], asked: list[Case]
) -> None:
    mute = {
        name: replace(book, entries=tuple(replace(entry, values=0 * entry.values) for entry in book.entries))
        for name, book in by_name.items()
    }
    answers = [
        oracle.answer(case.prompt, mute[case.codebook] if case.codebook else None, case.max_tokens) for case in asked
    ]
    served = [
        Served(answer.tokens, {"edit_id": answer.edit_id} if case.codebook else None)
        for case, answer in zip(asked, answers, strict=True)
    ]
    assert not judge(oracle, mute, asked, served).passed


def test_an_error_in_a_part_is_its_result_and_the_next_part_runs(capsys: pytest.CaptureFixture[str]) -> None:
    result = Result()
    with result.part("broken"):
        raise RuntimeError("no such engine")
    with result.part("whole"):
        result.add("whole", verdict=True, detail="")
    assert [step["verdict"] for step in result.steps] == ["FAIL", "PASS"]
    assert result.failed
    assert "FAIL broken" in capsys.readouterr().out


def test_the_model_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "tiny", SHAPE)
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors"}
