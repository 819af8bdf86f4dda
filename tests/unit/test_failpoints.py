"""Failpoints: what is asked for happens there, at the time that was asked for; every name stands in the code once."""

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

import horen_vllm
from horen_vllm import failpoints
from horen_vllm.failpoints import COMMITS, FAILPOINTS, InjectedFault, arm, failpoint

SOURCES = Path(horen_vllm.__file__).parent
BEFORE, AFTER = "registry.submit.before_commit", "registry.submit.after_commit"


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm("")


def first_arguments(function: str) -> Iterator[tuple[ast.expr, ast.AST]]:
    """First arguments of all calls of `function` in the package, each with the function that it stands in."""
    for path in SOURCES.rglob("*.py"):
        module = ast.parse(path.read_text(encoding="utf-8"))
        for place in ast.walk(module):
            if isinstance(place, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(place):
                    called = getattr(node, "func", None)
                    if function in {getattr(called, "id", ""), getattr(called, "attr", "")} and node.args:  # type: ignore[attr-defined]
                        yield node.args[0], place  # type: ignore[attr-defined]


def texts(node: ast.AST) -> Iterator[str]:
    """Texts that stand in an expression."""
    yield from (it.value for it in ast.walk(node) if isinstance(it, ast.Constant) and isinstance(it.value, str))


def transactions() -> Counter[str]:
    """Names that the registry gives its transactions, by the texts in the call and in what its names stand for."""
    found: Counter[str] = Counter()
    for argument, place in first_arguments("write"):
        names = {it.id for it in ast.walk(argument) if isinstance(it, ast.Name)}
        assigned = [
            it.value
            for it in ast.walk(place)
            if isinstance(it, ast.Assign) and names & {getattr(target, "id", "") for target in it.targets}
        ]
        found.update({text for node in (argument, *assigned) for text in texts(node) if text in COMMITS})
    return found


def unnamed_transactions() -> list[str]:
    """Where the registry writes without saying what."""
    return [
        f"{path.name}:{node.lineno}"
        for path in (SOURCES / "registry").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("atabase.write") and not node.args
    ]


def test_every_registered_failpoint_stands_in_the_code_once_and_every_placed_one_is_registered() -> None:
    placed = Counter(text for argument, _ in first_arguments("failpoint") for text in texts(argument))
    # `Database.write` has one place for all transactions: before the commit, and after it.
    assert {placed.pop(part) for part in ("registry.", ".before_commit", ".after_commit")} == {2, 1}
    assert placed == Counter({*FAILPOINTS} - {name for name in FAILPOINTS if name.startswith("registry.")})
    assert transactions() == Counter(COMMITS)


def test_every_transaction_of_the_registry_has_failpoints() -> None:
    assert unnamed_transactions() == []


def test_nothing_happens_unless_it_is_asked_for() -> None:
    failpoint(BEFORE)
    arm(f"{AFTER}=error")
    failpoint(BEFORE)


def test_an_error_is_raised_at_the_hit_that_was_asked_for() -> None:
    arm(f"{BEFORE}=error@2; {AFTER}=error")
    failpoint(BEFORE)
    with pytest.raises(InjectedFault, match=BEFORE):
        failpoint(BEFORE)
    failpoint(BEFORE)
    for _ in range(2):
        with pytest.raises(InjectedFault, match=AFTER):
            failpoint(AFTER)


def test_a_thread_is_made_to_wait() -> None:
    arm(f"{BEFORE}=sleep:0.05@1")
    start = monotonic()
    failpoint(BEFORE)
    assert monotonic() - start >= 0.05


def test_what_was_armed_is_replaced() -> None:
    arm(f"{BEFORE}=error")
    arm(f"{AFTER}=error")
    failpoint(BEFORE)


@pytest.mark.parametrize(
    "wanted",
    [
        "registry.nothing.before_commit=kill",
        BEFORE,
        f"{BEFORE}=explode",
        f"{BEFORE}=kill:3",
        f"{BEFORE}=sleep",
        f"{BEFORE}=sleep:-1",
        f"{BEFORE}=sleep:soon",
        f"{BEFORE}=kill@0",
        f"{BEFORE}=kill@often",
    ],
)
def test_what_cannot_be_read_is_refused(wanted: str) -> None:
    with pytest.raises(ValueError, match="HOREN_FAILPOINTS"):
        failpoints.parse(wanted)


def test_the_environment_arms_a_process_and_kill_ends_it_at_once() -> None:
    reach = f"failpoint({BEFORE!r})"
    code = f"from horen_vllm.failpoints import failpoint; {reach}; print('on'); {reach}; print('off')"
    environment = {**os.environ, "HOREN_FAILPOINTS": f"{BEFORE}=kill@2"}
    ended = subprocess.run(  # noqa: PLW1510
        [sys.executable, "-u", "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "on\n")
    assert "failpoints are armed" in ended.stderr
