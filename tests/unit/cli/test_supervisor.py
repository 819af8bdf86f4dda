"""The supervisor with shell scripts as parts: started together, watched, stopped together, nothing left behind."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from horen_vllm.cli.supervisor import Supervisor
from horen_vllm.errors import FailedPrecondition, Unavailable

from .dummy_stack import RUN, STUBBORN, dummy_part
from .processes import alive, all_gone, eventually, pids_of

Start = Callable[..., Supervisor]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start parts by name and script; they are stopped after the test."""
    running: list[Supervisor] = []

    def call(**scripts: str) -> Supervisor:
        specs = [dummy_part(tmp_path, name, script) for name, script in scripts.items()]
        supervisor = Supervisor(specs, grace_s=0.5)
        running.append(supervisor)
        supervisor.start()
        return supervisor

    yield call
    for supervisor in running:
        supervisor.stop()


def ready(supervisor: Supervisor) -> bool:
    return supervisor.wait_ready(threading.Event(), timeout_s=15.0)


def test_parts_and_their_children_end_at_stop(start: Start, tmp_path: Path) -> None:
    supervisor = start(one=RUN, two=RUN)
    assert ready(supervisor)
    pids = pids_of(tmp_path)
    assert len(pids) == 4
    assert all(alive(pid) for pid in pids)
    supervisor.stop()
    assert all_gone(pids)
    supervisor.stop()


def test_a_part_that_ignores_sigterm_is_killed_after_the_grace_period(start: Start, tmp_path: Path) -> None:
    supervisor = start(one=STUBBORN)
    assert ready(supervisor)
    pids, began = pids_of(tmp_path), time.monotonic()
    supervisor.stop()
    assert 0.4 < time.monotonic() - began < 5.0
    assert all_gone(pids)


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.04, 0.06, 0.08, 0.1])
def test_a_stop_right_after_the_start_leaves_nothing_behind(start: Start, tmp_path: Path, delay_s: float) -> None:
    supervisor = start(one=RUN, two=RUN, three=RUN)
    time.sleep(delay_s)
    supervisor.stop()
    assert all_gone(pids_of(tmp_path))


def test_a_part_that_ends_is_named_with_its_status_and_last_words(start: Start) -> None:
    supervisor = start(fine=RUN, broken="echo first; echo last words; echo ' - leaked type'; exit 9")
    with pytest.raises(Unavailable, match="the dummy broken stopped by itself with exit code 9") as caught:
        ready(supervisor)
    assert caught.value.code == "part_died"
    assert caught.value.__notes__[0].splitlines() == ["  broken| first", "  broken| last words"]


def test_a_part_that_a_signal_ended_says_so(start: Start) -> None:
    supervisor = start(broken="kill -SEGV $$")
    with pytest.raises(Unavailable, match="signal 11"):
        ready(supervisor)


def test_what_a_horen_process_reported_is_raised_as_it_was(start: Start) -> None:
    supervisor = start(worker="echo 'error [unsupported_architecture]: no such model.' >&2; exit 6")
    with pytest.raises(FailedPrecondition, match=r"the dummy worker cannot run: no such model\.") as caught:
        ready(supervisor)
    assert caught.value.code == "unsupported_architecture"


def test_what_a_dead_part_leaves_behind_is_killed(start: Start, tmp_path: Path) -> None:
    supervisor = start(one="sleep 1000 & echo $$ $! > {pids}; sleep 0.3; exit 3")
    assert ready(supervisor)
    pids = pids_of(tmp_path)
    with pytest.raises(Unavailable):
        supervisor.watch(threading.Event())
    assert all_gone(pids)


def test_a_part_that_is_never_ready_is_named(start: Start) -> None:
    supervisor = start(slow="sleep 1000")
    with pytest.raises(Unavailable, match=r"the dummy slow is not ready after 0\.3 s") as caught:
        supervisor.wait_ready(threading.Event(), timeout_s=0.3)
    assert caught.value.code == "not_ready"


def test_waiting_ends_when_stop_is_set(start: Start) -> None:
    supervisor, stop = start(slow="sleep 1000"), threading.Event()
    stop.set()
    assert not supervisor.wait_ready(stop, timeout_s=15.0)
    supervisor.watch(stop)


def test_a_killed_part_is_no_failure_and_can_be_restarted(start: Start, tmp_path: Path) -> None:
    supervisor = start(one=RUN, two=RUN)
    assert ready(supervisor)
    first = [int(pid) for pid in (tmp_path / "one.pids").read_text().split()]
    supervisor.kill("one")
    assert all_gone(first)
    supervisor.check()
    (tmp_path / "one.pids").unlink()
    supervisor.restart("one")
    assert ready(supervisor)
    assert all(alive(pid) for pid in pids_of(tmp_path))


def test_the_log_of_the_run_before_is_kept(start: Start, tmp_path: Path) -> None:
    supervisor = start(one="echo $$; echo $$ $$ > {pids}; sleep 1000")
    assert ready(supervisor)
    before = (tmp_path / "one.log").read_text()
    supervisor.restart("one")
    assert (tmp_path / "one.log.1").read_text() == before
    assert eventually(lambda: (tmp_path / "one.log").read_text() not in {"", before})
