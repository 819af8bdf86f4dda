"""The commands of ``docs/paper-comparison.md`` are commands that there are."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from horen_vllm.cli.app import app
from horen_vllm.cli.eval_options import names, numbers, thresholds_of
from horen_vllm.core.presets import PRESETS
from horen_vllm.evals.questions.drafts import BASE, RETRIEVAL
from horen_vllm.evals.questions.plan_settings import PlanSettings
from horen_vllm.evals.records import Protocol, QuestionKind

PAGE = Path(__file__).resolve().parents[4] / "docs" / "paper-comparison.md"
COMMANDS = re.findall(r"^horen eval .+$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line.rsplit(maxsplit=1)[-1])
def test_a_command_is_understood(line: str) -> None:
    _, group, dataset, *arguments = shlex.split(line)
    commands = get_command(app).commands[group].commands  # type: ignore[attr-defined]

    given = commands[dataset].make_context(dataset, arguments).params

    assert set(names(given["arms"])) <= {BASE, RETRIEVAL, *PRESETS}
    assert {Protocol(name) for name in names(given["protocols"])}
    assert {QuestionKind(name) for name in names(given["without"])} <= set(QuestionKind)
    assert set(thresholds_of(given["threshold"])) <= set(names(given["arms"]))
    plan = PlanSettings(checkpoints=numbers(given["checkpoints"]) or (), sample=given["sample"])
    assert plan.checkpoints[-1] == given["edits"]
    assert plan.sample == given["edits"]


def test_every_data_set_of_the_paper_has_a_command() -> None:
    assert {line.split()[2] for line in COMMANDS} == {"zsre", "wikibigedit", "unke"}
