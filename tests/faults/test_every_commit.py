"""A process is killed before or after each commit that the histories of `test_kill_matrix` do not come by."""

import multiprocessing
import signal

import pytest

from horen_vllm import failpoints
from horen_vllm.registry.store import SqlRegistry
from tests.faults.commits import COMMITS, an_hour_ago, die_at
from tests.faults.test_kill_matrix import MATRIX, SAMPLE, SIDES

# Forked from a process that has nothing but the imports: these take longer than all else.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.faults.commits"])


def test_the_matrices_name_every_failpoint() -> None:
    killed = {failpoint.partition("=")[0] for _, failpoint in (*SAMPLE, *MATRIX)}
    killed |= {f"registry.{commit}.{side}" for commit in COMMITS for side in SIDES}
    assert failpoints.FAILPOINTS - killed == set()


@pytest.mark.matrix
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("commit", COMMITS)
def test_a_change_is_made_once_wherever_its_process_dies(
    registry: SqlRegistry, registry_url: str, commit: str, side: str
) -> None:
    way = COMMITS[commit]
    slow = SqlRegistry(registry_url, clock=an_hour_ago)
    prepared = way.prepare(slow)
    slow.close()
    before = registry.list_audit_events()
    process = PROCESSES.Process(target=die_at, args=(registry_url, commit, side, prepared))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert way.done(registry, prepared) is (side == "after_commit")
    way.act(registry, prepared)
    assert way.done(registry, prepared)
    events = registry.list_audit_events()[len(before) :]
    assert [event.method for event in events] == ([way.method] if way.method else [])
