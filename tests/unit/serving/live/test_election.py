"""One agent for an engine, whatever becomes of the others: real processes, real locks."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.errors import FailedPrecondition, Unavailable
from horen_vllm.ids import DEFAULT_TENANT
from horen_vllm.serving.election import Election, clear_run_folders, engine_key, run_folder
from horen_vllm.serving.state import AgentState, CodebookState, StateFile
from tests.unit.serving.live import standby
from tests.unit.serving.live.standby import BOOK
from tests.unit.serving.live.world import PARAMETERS

ROOT = Path(__file__).resolve().parents[4]


@contextmanager
def server(folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """An API server in a process of its own."""
    command = [sys.executable, "-m", "tests.unit.serving.live.standby", str(folder), name]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(holds: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (found := holds()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def agent_of(folder: Path) -> str:
    state = StateFile(folder).changed()
    return state.tickets[0] if state else ""


def revision_of(folder: Path) -> int:
    state = StateFile(folder).changed()
    return state.codebooks[BOOK].applied if state else 0


def test_a_killed_agent_is_replaced_by_one_that_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with server(tmp_path, "one") as one, server(tmp_path, "two") as two:
        first = wait_for(lambda: agent_of(tmp_path))
        wait_for(lambda: revision_of(tmp_path) > 3)
        assert agent_of(tmp_path) == first, "there is one agent, not two that take turns"
        (one if first == "one" else two).kill()
        before = revision_of(tmp_path)
        wait_for(lambda: agent_of(tmp_path) not in {first, ""})
        assert revision_of(tmp_path) > before


def test_a_follower_never_reads_an_older_table_than_the_agent_has_published(tmp_path: Path) -> None:
    """At every look: what was in the file before the request came is in the answer."""

    async def follow() -> None:
        live, served = standby.live(tmp_path, "follower")
        task = asyncio.create_task(live.run())
        assert await live.wait_ready(60)
        for _ in range(20):
            published = revision_of(tmp_path)
            tag = served.resolve("base@a", DEFAULT_TENANT)
            assert tag is not None
            assert tag.window_ratio == 0.25
            assert served.revisions()[BOOK] >= published
            await asyncio.sleep(0.01)
        assert not live.leading
        task.cancel()

    with server(tmp_path, "agent"):
        wait_for(lambda: agent_of(tmp_path))
        asyncio.run(follow())


def test_a_stopped_agent_leaves_followers_stale_by_its_last_heartbeat(tmp_path: Path) -> None:
    live, served = standby.live(tmp_path, "follower")
    with Election(tmp_path) as agent:
        assert agent.won()
        StateFile(tmp_path).write(AgentState(ready=True, confirmed_at=time.monotonic() - 31.0))

        async def follow() -> None:
            task = asyncio.create_task(live.run())
            assert await live.wait_ready(10)
            assert served.stale
            task.cancel()

        asyncio.run(follow())


def test_a_codebook_that_owes_a_revision_is_refused_until_it_has_it(tmp_path: Path) -> None:
    live, served = standby.live(tmp_path, "follower")
    for applied in (2, 3):
        state = CodebookState(applied=applied, owed=3, parameters=PARAMETERS)
        StateFile(tmp_path).write(AgentState(codebooks={BOOK: state}, confirmed_at=time.monotonic(), ready=True))
        assert live.state.codebooks[BOOK] == state
        if applied < 3:
            with pytest.raises(Unavailable) as caught:
                served.resolve("base@a", DEFAULT_TENANT)
            assert caught.value.code == "replica_stale"
            assert served.resolve("base", DEFAULT_TENANT) is None
    assert served.resolve("base@a", DEFAULT_TENANT) is not None


def test_the_wait_for_the_first_load_is_bounded(tmp_path: Path) -> None:
    live, served = standby.live(tmp_path, "follower")

    async def follow() -> bool:
        task = asyncio.create_task(live.run())
        ready = await live.wait_ready(0.05)
        task.cancel()
        return ready

    with Election(tmp_path) as agent:
        assert agent.won()
        assert not asyncio.run(follow())
    assert served.stale


def test_a_lock_is_held_once_and_freed_by_closing(tmp_path: Path) -> None:
    first, second = Election(tmp_path), Election(tmp_path)
    assert first.won()
    assert first.won()
    assert not second.won()
    first.close()
    assert second.won()
    second.close()


def client_of(processes: int) -> Any:
    parallel = SimpleNamespace(_api_process_count=processes)
    return SimpleNamespace(vllm_config=SimpleNamespace(parallel_config=parallel))


def test_several_api_servers_share_their_parents_key_and_a_single_one_has_its_own() -> None:
    code = (
        "import sys; from types import SimpleNamespace as N; from horen_vllm.serving.election import engine_key;"
        "print(engine_key(N(vllm_config=N(parallel_config=N(_api_process_count=int(sys.argv[1]))))))"
    )

    def child(processes: int) -> str:
        command = [sys.executable, "-c", code, str(processes)]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()

    mine = engine_key(client_of(1))
    assert child(2) == child(2) == mine, "both are children of this process"
    assert child(1) != child(1)
    assert engine_key(client_of(2)) != mine


def test_the_run_folder_is_private(tmp_path: Path) -> None:
    made = run_folder(tmp_path / "horen", "key")
    assert (made, made.stat().st_mode & 0o777) == (tmp_path / "horen" / "key", 0o700)
    assert run_folder(tmp_path / "horen", "key") == made
    made.chmod(0o755)
    with pytest.raises(FailedPrecondition) as caught:
        run_folder(tmp_path / "horen", "key")
    assert caught.value.code == "run_folder_unsafe"


def test_a_link_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "horen").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FailedPrecondition):
        run_folder(tmp_path / "horen", "key")


def test_folders_of_engines_that_ended_long_ago_are_cleared(tmp_path: Path) -> None:
    mine, dead, alive, _ = (run_folder(tmp_path / "run", key) for key in ("mine", "dead", "alive", "young"))
    old = time.time() - 2 * 86_400
    with Election(alive) as agent:
        assert agent.won()
        StateFile(dead).write(AgentState())
        for folder in (mine, dead, alive):
            os.utime(folder, (old, old))
        clear_run_folders(mine)
        assert {path.name for path in mine.parent.iterdir()} == {"mine", "alive", "young"}
