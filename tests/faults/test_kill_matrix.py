"""A process dies at the worst moment and comes back; nothing that was acknowledged is lost, nothing happens twice."""

import pytest

from horen_vllm.control.client import HorenClient
from horen_vllm.registry.store import SqlRegistry
from tests.faults.checker import Evidence
from tests.faults.conftest import BOOK
from tests.faults.history import Driver, Op
from tests.faults.parts import Installation
from tests.faults.plant import running_plant

STEPS = 16
OPS = (Op.SUBMIT, Op.SUBMIT, Op.SUBMIT, Op.EDIT, Op.SERVING)


def survive(place: Installation, registry: SqlRegistry, process: str, failpoint: str, *, seed: int) -> None:
    """Run a history in which `process` dies at `failpoint`, and check it."""
    with running_plant(place, {process: failpoint}) as plant:
        with HorenClient(f"127.0.0.1:{plant.place.port}", timeout_s=5.0) as client:
            calls = Driver(client, BOOK, seed, OPS).run(STEPS)
        assert (plant.killed, plant.crashed) == ([process], [])
    evidence = Evidence(calls, registry, BOOK, place.artifacts, [place.journal("r1")])
    assert evidence.check() == []


@pytest.mark.parametrize(
    ("process", "failpoint"),
    [
        ("control", "registry.submit.after_commit=kill@2"),
        ("worker", "artifact.before_rename=kill@2"),
        ("control", "control.before_answer=kill@6"),
        ("replica", "replica.after_flip=kill@2"),
    ],
)
def test_sample(place: Installation, registry: SqlRegistry, process: str, failpoint: str) -> None:
    survive(place, registry, process, failpoint, seed=1)
