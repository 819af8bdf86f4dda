"""The description of a run: written, read, refused."""

from pathlib import Path

import pytest

from horen_vllm.errors import InvalidArgument, NotFound
from horen_vllm.evals.reporting.run_info import RUN_FILE, ArmInfo, EditOutcome, RunInfo
from tests.unit.evals.reporting.made_runs import World, info


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    about = World().info()
    about.save(tmp_path / "run")
    assert RunInfo.load(tmp_path / "run") == about
    assert [path.name for path in (tmp_path / "run").iterdir()] == [RUN_FILE]


def test_saving_again_takes_the_place_of_the_old(tmp_path: Path) -> None:
    info(finished=False).save(tmp_path)
    info(finished=True).save(tmp_path)
    assert RunInfo.load(tmp_path).finished_at is not None


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        RunInfo.load(tmp_path)
    assert caught.value.code == "run_not_found"


@pytest.mark.parametrize(
    ("text", "named"),
    [("", "whole file"), ("{", "whole file"), ("[]", "whole file"), ('{"format": 2}', "format"), ('{"a": 1}', "name")],
)
def test_what_is_no_description_is_refused_and_told_where(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        RunInfo.load(tmp_path)
    assert caught.value.code == "invalid_run"
    assert named in caught.value.message
    assert RUN_FILE in caught.value.message


def test_an_arm_is_replaced_in_its_place_or_added_at_the_end() -> None:
    about = info(arms=[ArmInfo(name="base", model="tiny"), ArmInfo(name="cosine", model="tiny@a")])
    changed = about.with_arm(ArmInfo(name="base", model="tiny", edits=(EditOutcome(position=0),)))
    assert [arm.name for arm in changed.arms] == ["base", "cosine"]
    assert changed.arms[0].edits == (EditOutcome(position=0),)
    added = changed.with_arm(ArmInfo(name="grace", model="tiny@b"))
    assert [arm.name for arm in added.arms] == ["base", "cosine", "grace"]
    assert added.arm("grace") == ArmInfo(name="grace", model="tiny@b")
    assert added.arm("calibrated") is None
