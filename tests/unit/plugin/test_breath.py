"""Pauses of work beside engine steps: long while steps run, short while none does."""

from collections.abc import Iterator

import pytest

from horen_vllm.plugin import breath
from horen_vllm.plugin.breath import StepClock, breathing


class _Time:
    """A clock that goes on by sleeping and by work."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def work(self, pieces: int, seconds: float) -> Iterator[int]:
        for piece in range(pieces):
            self.now += seconds
            yield piece


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Time:
    made = _Time()
    monkeypatch.setattr(breath, "time", made)
    return made


def test_while_steps_run_it_works_a_tenth_of_the_time(clock: _Time) -> None:
    steps = StepClock()
    steps.begin()
    assert list(breathing(clock.work(100, 0.00006), steps)) == list(range(100))
    assert clock.pauses == [0.001] * 50


def test_while_no_step_runs_it_gives_way_only_for_a_moment(clock: _Time) -> None:
    steps = StepClock()
    assert len(list(breathing(clock.work(100, 0.00006), steps))) == 100
    assert len(clock.pauses) == 50
    assert max(clock.pauses) < 0.0001
    steps.begin()
    clock.now += 10.0
    assert steps.pause_s() < 0.0001


def test_a_step_that_begins_meanwhile_makes_the_pauses_long(clock: _Time) -> None:
    steps = StepClock()
    for number in breathing(clock.work(40, 0.0002), steps):
        if number == 19:
            steps.begin()
    assert [pause >= 0.001 for pause in clock.pauses] == [False] * 19 + [True] * 21
