"""The registry is restored from a backup while servers go on: nothing of before is served as if it were of now."""

import asyncio
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.errors import NotFound, Unavailable
from horen_vllm.registry.store import SqlRegistry
from horen_vllm.serving import lane, sync
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.election import Election, run_folder
from horen_vllm.serving.live import LiveUpdates
from horen_vllm.serving.state import AgentState, StateFile
from tests.unit.serving.live.world import World, book

NAME = str(book("a"))


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(sync, "RETRY_S", 0.05)


def back_up(world: World) -> Path:
    """Copy the database as the how-to says."""
    copy = world.folder / "backup.db"
    with sqlite3.connect(world.folder / "registry.db") as database, sqlite3.connect(copy) as to:
        database.backup(to)
    return copy


def restore(world: World, backup: Path) -> str:
    """Put a backup in the place of the registry, and say so; return the new epoch."""
    world.registry.close()
    for left in world.folder.glob("registry.db-*"):
        left.unlink()
    path = shutil.copy(backup, world.folder / "registry.db")
    world.registry = SqlRegistry(f"sqlite:///{path}")
    return world.registry.begin_epoch()


def run(world: World, script: Any, state: AgentState | None = None, **settings: Any) -> None:
    try:
        asyncio.run(world.running(script, state, **settings))
    finally:
        world.registry.close()


def ending(asked: threading.Event, script: Any) -> Any:
    """Return `script`, after which the questions that wait get their answers: the loop waits for them when it ends."""

    async def both() -> None:
        try:
            await script()
        finally:
            asked.set()

    return both


def held(world: World) -> list[set[str]]:
    """Return the edits of the codebook that each worker has."""
    return [set(rank.entries.get(NAME, {})) for rank in world.engine.ranks]


def answered(world: World, epoch: str) -> list[tuple[int, int]]:
    """Return what was answered for of codebook a since an epoch was heard of: what is applied, and what is owed."""
    states = [state.codebooks[book("a")] for state in world.states if state.epoch == epoch and state.codebooks]
    return [(it.applied, it.owed) for it in states]


def serve_table(world: World) -> tuple[LiveUpdates, ServedCodebooks]:
    """Return an API server of the engine, and what it answers for."""
    served = ServedCodebooks(("base",), stale_after_s=30.0)
    folder = run_folder(world.folder / "run", "engine")

    async def lead(state: AgentState | None, publish: Callable[[AgentState], None]) -> None:
        def both(new: AgentState) -> None:
            publish(new)
            world.states.append(new)

        await world.agent(both).run(state)

    return LiveUpdates(election=Election(folder), file=StateFile(folder), served=served, lead=lead), served


def test_the_same_number_with_other_entries_is_loaded_anew(world: World) -> None:
    world.create("a")
    backup = back_up(world)

    async def script() -> None:
        await world.until(world.confirmed)
        lost = world.publish("a", "who?", "Ada")
        await world.until(lambda: world.serving("a", 2))
        await world.stop_server()
        epoch = restore(world, backup)
        kept = world.publish("a", "where?", "Rome")
        assert held(world) == [{lost.edit_id}] * 2
        await world.start_server()
        await world.until(lambda: world.serving("a", 2))
        assert held(world) == [{kept.edit_id}] * 2
        assert world.state.epoch == epoch
        assert answered(world, epoch)[0] == (0, 1)

    run(world, script)


def test_a_server_that_was_away_all_along_loads_anew(world: World) -> None:
    """It asks for the first time when the number that it has is the current one again."""
    world.create("a")
    backup = back_up(world)
    world.publish("a", "who?", "Ada")
    asyncio.run(world.running(lambda: world.until(lambda: world.serving("a", 2))))
    left = AgentState.from_json(world.state.to_json())
    assert left.epoch == world.registry.epoch()
    world.server.stop()
    epoch = restore(world, backup)
    kept = world.publish("a", "where?", "Rome")
    world.states.clear()

    async def script() -> None:
        await world.start_server()
        await world.until(lambda: world.serving("a", 2))
        assert held(world) == [{kept.edit_id}] * 2
        assert answered(world, epoch)[0] == (0, 1)
        assert all(state.confirmed_at is None or state.epoch for state in world.states)

    run(world, script, left)


def test_nothing_of_before_is_answered_for_while_it_is_loaded_anew(world: World) -> None:
    for name in ("a", "b", "gone"):
        world.create(name)
    world.registry.delete_codebook(book("gone"))
    backup = back_up(world)
    world.registry.undelete_codebook(book("gone"))
    live, served = serve_table(world)

    async def script() -> None:
        task = asyncio.create_task(live.run())
        await world.until(world.confirmed)
        world.publish("a", "who?", "Ada")
        await world.until(lambda: world.serving("a", 2))
        assert [served.resolve(f"base@{it}") is not None for it in ("a", "b", "gone")] == [True] * 3
        await world.stop_server()
        epoch = restore(world, backup)
        world.publish("a", "where?", "Rome")
        world.engine.refuse["a"] = "never"
        await world.start_server()
        await world.until(lambda: world.serving("b", 1) and not served.stale)
        assert world.state.epoch == epoch
        with pytest.raises(Unavailable) as caught:
            served.resolve("base@a")
        assert caught.value.code == "replica_stale"
        assert served.resolve("base@b") is not None
        view = world.client.get_codebook(book("a"))
        assert (view.replicas_serving, view.replicas_total) == (0, 1)
        await world.until(lambda: "gone" not in world.engine.applied())
        with pytest.raises(NotFound):
            served.resolve("base@gone")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    try:
        asyncio.run(script())
    finally:
        world.registry.close()


def test_a_successor_goes_on_holding_back(world: World) -> None:
    """The agent may die between the word of the restore and the reload: the engine still has what was lost."""
    world.create("a")

    async def first() -> None:
        await world.until(world.confirmed)
        world.publish("a", "who?", "Ada")
        await world.until(lambda: world.serving("a", 2))
        world.engine.refuse["a"] = "never"
        epoch = world.registry.begin_epoch()
        await world.until(lambda: world.state.epoch == epoch and world.confirmed())

    asyncio.run(world.running(first))
    left = AgentState.from_json(world.state.to_json())
    assert left.codebooks[book("a")].applied == 0 < left.codebooks[book("a")].owed
    assert world.engine.applied() == {"a": 2}
    world.states.clear()

    async def second() -> None:
        await world.until(lambda: world.state.tickets if world.states else False)
        assert {it.codebooks[book("a")].applied for it in world.states} == {0}
        world.engine.refuse.clear()
        for rank in world.engine.ranks:
            for staged in rank.staged.values():
                staged["code"] = None
        await world.until(lambda: world.serving("a", 2))

    run(world, second, left)


def test_an_update_of_before_that_ends_later_counts_for_nothing(world: World) -> None:
    world.create("a")
    backup = back_up(world)

    async def script() -> None:
        await world.until(world.confirmed)
        world.engine.refuse["a"] = "never"
        world.publish("a", "who?", "Ada")
        await world.until(lambda: all(rank.staged for rank in world.engine.ranks))
        await world.stop_server()
        epoch = restore(world, backup)
        kept = world.publish("a", "where?", "Rome")
        world.engine.refuse.clear()
        await world.start_server()
        await world.until(lambda: world.state.epoch == epoch and world.confirmed())
        assert world.engine.applied() == {"a": 1}
        for rank in world.engine.ranks:
            for staged in rank.staged.values():
                staged["code"] = None
        await world.until(lambda: world.serving("a", 2))
        assert held(world) == [{kept.edit_id}] * 2

    run(world, script)
    # That of before reached the workers, too, and was not counted.
    assert world.engine.calls.count("horen_flip") == 3
    assert world.observer.told.count(("flipped", "a", 2)) == 1


@pytest.fixture
def patient(world: World, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Questions that wait for news stay without an answer."""
    over = threading.Event()
    ask = world.client.sync

    def waiting(*args: Any, wait_s: float, **kwargs: Any) -> Any:
        if wait_s:
            over.wait(30)
        return ask(*args, wait_s=wait_s, **kwargs)

    monkeypatch.setattr(world.client, "sync", waiting)
    return over


def test_a_heartbeat_that_is_refused_makes_the_agent_ask(world: World, patient: threading.Event) -> None:
    world.create("a")

    async def script() -> None:
        await world.until(world.confirmed)
        epoch = world.registry.begin_epoch()
        await world.until(lambda: world.state.epoch == epoch and world.confirmed())
        await world.until(lambda: world.serving("a", 1))
        assert ("failed", "other_epoch") in world.observer.told

    run(world, ending(patient, script))


def test_a_restore_between_the_heartbeat_and_what_is_asked_after_it_is_noticed(
    world: World, patient: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create("a")
    beat = world.client.heartbeat
    epochs: list[str] = []

    def restoring(*args: Any, **kwargs: Any) -> Any:
        answer = beat(*args, **kwargs)
        if not epochs:
            epochs.append(world.registry.begin_epoch())
        return answer

    monkeypatch.setattr(world.client, "heartbeat", restoring)

    async def script() -> None:
        await world.until(world.confirmed)
        assert [world.state.epoch] == epochs
        await world.until(lambda: world.serving("a", 1))
        assert all(state.confirmed_at is None for state in world.states if state.epoch not in epochs)

    run(world, ending(patient, script))


def test_a_lease_of_before_is_none_of_now(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.create("a")
    beat = world.client.heartbeat
    slow, taken, go = threading.Event(), threading.Event(), threading.Event()

    def late(*args: Any, **kwargs: Any) -> Any:
        answer = beat(*args, **kwargs)
        if slow.is_set():
            taken.set()
            go.wait()
        return answer

    monkeypatch.setattr(world.client, "heartbeat", late)

    async def script() -> None:
        try:
            await world.until(lambda: world.serving("a", 1))
            slow.set()
            await world.until(taken.is_set)
            epoch = world.registry.begin_epoch()
            await world.until(lambda: world.state.epoch == epoch and world.state.codebooks[book("a")].applied)
            assert world.state.confirmed_at is None
            slow.clear()
            heard_at = time.monotonic()
            go.set()
            await world.until(world.confirmed)
            assert world.state.confirmed_at is not None
            assert world.state.confirmed_at >= heard_at
        finally:
            go.set()

    run(world, script)
