"""``horen demo --write-edits``: a file that an evaluation reads without a complaint."""

import json
from collections import Counter
from pathlib import Path

import pytest

from horen_vllm.cli.demo_choice import choose
from horen_vllm.evals.data.opening import open_dataset
from horen_vllm.evals.records import ProbeKind

from .conftest import Run


@pytest.mark.parametrize(("count", "seed"), [(1, 2026), (20, 7), (200, 2026)])
def test_the_file_has_the_facts_that_the_demo_edits_and_no_defect(
    run: Run, tmp_path: Path, count: int, seed: int
) -> None:
    path = tmp_path / "edits.jsonl"
    done = run("demo", "--write-edits", path, "--edits", count, "--seed", seed)
    assert done.exit_code == 0, done.output
    assert f"{count} edits" in done.stdout
    read = open_dataset(path, name="jsonl")
    assert read.defects == ()
    expected = [(choice.prompt, choice.target, choice.subject) for choice in choose(count, seed)]
    assert [(case.prompt, case.target, case.subject) for case in read.cases] == expected
    subjects = {case.subject for case in read.cases}
    for case in read.cases:
        assert case.target_true not in {None, case.target}
        assert len(case.rephrases) == 1
        kinds = Counter(probe.kind for probe in case.probes)
        assert kinds[ProbeKind.NEAR] == kinds[ProbeKind.UNRELATED] == 1
        near, unrelated = (
            next(probe.prompt for probe in case.probes if probe.kind is kind)
            for kind in (ProbeKind.NEAR, ProbeKind.UNRELATED)
        )
        assert not any(subject in near or subject in unrelated for subject in subjects if subject)
    hard = [probe for case in read.cases for probe in case.probes if probe.kind is ProbeKind.SAME_SUBJECT]
    assert len(hard) > 0.5 * count
    assert not {probe.prompt for probe in hard} & {case.prompt for case in read.cases}


def test_the_same_seed_writes_the_same_file_and_another_one_another(run: Run, tmp_path: Path) -> None:
    written = []
    for seed in (1, 1, 2):
        assert run("demo", "--write-edits", tmp_path / "edits.jsonl", "--seed", seed).exit_code == 0
        written.append((tmp_path / "edits.jsonl").read_text())
    assert written[0] == written[1] != written[2]
    assert json.loads(written[0].splitlines()[0])["id"].startswith("fact-")


def test_a_file_that_cannot_be_written_is_told(run: Run, tmp_path: Path) -> None:
    refused = run("demo", "--write-edits", tmp_path / "nowhere" / "edits.jsonl")
    assert refused.exit_code == 3
    assert "error [file_unusable]" in refused.stderr
