"""A process dies at the worst moment and comes back; nothing that was acknowledged is lost, nothing happens twice."""

import zlib
from collections.abc import Callable
from typing import Final

import pytest

from horen_vllm.control.client import HorenClient
from horen_vllm.failpoints import ANSWERS, FLIPS, WRITES
from horen_vllm.registry.store import SqlRegistry
from tests.faults.checker import Evidence
from tests.faults.conftest import BOOK
from tests.faults.history import Driver, Op
from tests.faults.parts import Installation
from tests.faults.plant import running_plant

STEPS: Final = 12
OPS: Final = (Op.SUBMIT, Op.SUBMIT, Op.SUBMIT, Op.ROLLBACK, Op.RETIRE, Op.EDIT, Op.SERVING)
SAMPLE: Final = (
    ("control", "registry.submit.after_commit=kill@2"),
    ("worker", "artifact.before_rename=kill@2"),
    ("control", "control.before_answer=kill@9"),
    ("r1", "replica.after_flip=kill@2"),
)
"""One of each kind: a commit, an artifact write, an acknowledgement, a flip."""
SIDES: Final = ("before_commit", "after_commit")
COMMITS: Final = (
    *(
        ("control", f"registry.{commit}.{side}=kill@{hit}")
        for commit, hit in (("submit", 3), ("retire_edit", 1), ("rollback", 1), ("heartbeat", 3))
        for side in SIDES
    ),
    *(
        ("worker", f"registry.{commit}.{side}=kill@{hit}")
        for commit, hit in (("claim", 2), ("publish", 2), ("finish_same", 1), ("fail", 1), ("set_threshold", 1))
        for side in SIDES
    ),
)
OTHERS: Final = (
    *(("worker", f"{write}=kill@2") for write in WRITES),
    # Whichever calls these are: those of the user, of the replica, of its probes.
    *(("control", f"{answer}=kill@{hit}") for answer in ANSWERS for hit in (2, 5, 11, 19, 31)),
    *(("r1", f"{flip}=kill@2") for flip in FLIPS),
)
"""No commits, so one database does for them."""
MATRIX: Final = (*COMMITS, *OTHERS)


def survive(place: Installation, registry: SqlRegistry, process: str, failpoint: str, *, seed: int) -> None:
    """Run a history in which `process` dies at `failpoint`, and check it."""
    with running_plant(place, {process: failpoint}) as plant:
        with HorenClient(f"127.0.0.1:{plant.ports['control']}", timeout_s=5.0) as client:
            calls = Driver(client, BOOK, seed, OPS).run(STEPS)
        assert (plant.killed, plant.crashed) == ([process], [])
    evidence = Evidence(calls, registry, BOOK, place.artifacts, [place.journal("r1")])
    assert evidence.check() == []


@pytest.mark.parametrize(("process", "failpoint"), SAMPLE)
def test_nothing_is_lost_when_a_process_dies(
    place: Installation, registry: SqlRegistry, process: str, failpoint: str
) -> None:
    survive(place, registry, process, failpoint, seed=1)


@pytest.mark.matrix
@pytest.mark.parametrize(("process", "failpoint"), COMMITS)
def test_nothing_is_lost_wherever_a_process_dies(
    place: Installation, registry: SqlRegistry, process: str, failpoint: str
) -> None:
    survive(place, registry, process, failpoint, seed=zlib.crc32(failpoint.encode()))


@pytest.mark.matrix
@pytest.mark.parametrize(("process", "failpoint"), OTHERS)
def test_nothing_is_lost_when_a_process_dies_between_commits(
    sqlite_place: Installation, open_book: Callable[[str], SqlRegistry], sqlite_url: str, process: str, failpoint: str
) -> None:
    survive(sqlite_place, open_book(sqlite_url), process, failpoint, seed=zlib.crc32(failpoint.encode()))
