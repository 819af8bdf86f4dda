"""The command as a whole: version, help, import cost, and errors as lines and exit codes."""

import subprocess
import sys

import pytest

from horen_vllm import __version__, errors
from horen_vllm.cli.exits import (
    CHECK_FAILED,
    EXIT_CODE,
    error_of_process,
    exit_code,
    report,
    report_unexpected,
)
from horen_vllm.core.presets import PRESETS
from horen_vllm.errors import FailedPrecondition, HorenError, NotFound

from .conftest import Run

HEAVY = ("torch", "vllm", "transformers", "sqlalchemy", "alembic", "grpc", "httpx", "pydantic")


def test_importing_the_app_imports_nothing_heavy() -> None:
    code = f"import sys, horen_vllm.cli.app; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_version(run: Run) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout.strip()) == (0, f"horen {__version__}")


@pytest.mark.parametrize(
    "command",
    [
        ("up",),
        ("serve",),
        ("control",),
        ("worker",),
        ("doctor",),
        *[("edit", name) for name in ("submit", "list", "show", "watch")],
        *[("codebook", name) for name in ("create", "list", "show", "revisions", "rollback")],
        *[("db", name) for name in ("upgrade", "check")],
    ],
    ids=" ".join,
)
def test_every_command_explains_itself(run: Run, command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "--help" in result.stdout


def test_wrong_usage_exits_2(run: Run) -> None:
    assert run("codebook", "create").exit_code == 2


def test_the_help_of_a_new_codebook_lists_all_presets(run: Run) -> None:
    explained = run("codebook", "create", "--help")
    assert ", ".join(PRESETS) in explained.stdout


def test_the_exit_table_covers_every_error_with_different_codes() -> None:
    classes = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, HorenError)}
    assert classes - {HorenError} == set(EXIT_CODE)
    assert len(set(EXIT_CODE.values()) - {0, CHECK_FAILED, 2}) == len(EXIT_CODE)


def test_a_subclass_exits_as_its_base() -> None:
    class Narrow(NotFound):
        pass

    assert exit_code(Narrow("x")) == EXIT_CODE[NotFound]


def test_a_report_is_one_line_and_its_notes(capsys: pytest.CaptureFixture[str]) -> None:
    error = FailedPrecondition("two\nlines.", code="some_case")
    error.add_note("  a note")
    assert report(error) == 6
    assert capsys.readouterr().err == "error [some_case]: two lines.\n  a note\n"


def test_an_unexpected_error_is_internal(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_unexpected(ValueError("odd")) == 70
    line = capsys.readouterr().err
    assert line.startswith("error [internal]: unexpected ValueError: odd")
    assert "Traceback" not in line


def test_an_error_survives_the_way_through_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    status = report(NotFound("no such thing.", code="unknown_codebook"))
    found = error_of_process(status, capsys.readouterr().err)
    assert isinstance(found, NotFound)
    assert (found.code, found.message) == ("unknown_codebook", "no such thing.")


def test_other_last_words_are_no_error() -> None:
    assert error_of_process(1, "Segmentation fault") is None
    assert error_of_process(1, "error [internal]: x") is None
