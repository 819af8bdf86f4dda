"""What arrives twice, late or damaged: answers of the control plane, heartbeats, artifacts."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from horen_vllm.control.client import HorenClient
from horen_vllm.control.messages import SyncView
from horen_vllm.registry.models import ReplicaReport
from horen_vllm.serving import lane
from tests.unit.serving.live.world import FINGERPRINT, World, book


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.05)


def run(world: World, script: Any, **settings: Any) -> None:
    asyncio.run(world.running(script, None, **settings))


def test_an_answer_that_comes_twice_is_applied_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.create("a")
    original = HorenClient.sync
    answered: list[SyncView] = []

    def sync_twice(self: HorenClient, *arguments: Any, **options: Any) -> SyncView:
        # Every other call gets what the one before it got.
        if len(answered) % 2 and answered[-1]:
            answered.append(answered[-1])
        else:
            answered.append(original(self, *arguments, **options))
        return answered[-1]

    monkeypatch.setattr(HorenClient, "sync", sync_twice)

    async def script() -> None:
        await world.until(world.confirmed)
        first = world.publish("a", "who?", "Ada")
        await world.until(lambda: world.serving("a", 2))
        world.publish("a", "where?", "Rome")
        await world.until(lambda: world.serving("a", 3))
        world.registry.rollback(book("a"), 2)
        await world.until(lambda: world.serving("a", 4))
        assert set(world.engine.ranks[0].entries[str(book("a"))]) == {first.edit_id}

    run(world, script)
    flips: list[Any] = [told[2] for told in world.observer.told if told[0] == "flipped"]
    assert flips == sorted(flips)
    assert set(flips) == {1, 2, 3, 4}
    assert len(answered) > len({id(it) for it in answered})


def test_a_late_heartbeat_makes_nothing_serving_that_is_not(world: World) -> None:
    name = world.create("a")

    def beat(applied: int) -> None:
        report = ReplicaReport(applied={name: applied}, probed={name: applied})
        world.client.heartbeat("r1", model="m", fingerprint=FINGERPRINT, epoch=world.client.epoch(), report=report)

    world.publish("a", "who?", "Ada")
    beat(1)
    assert not world.client.get_codebook(name).serving
    beat(2)
    assert world.client.get_codebook(name).serving
    beat(1)
    assert not world.client.get_codebook(name).serving
    beat(2)
    assert world.client.get_codebook(name).serving


def damaged(data: bytes) -> bytes | None:
    return data[:-1] + bytes([data[-1] ^ 1])


def missing(_data: bytes) -> bytes | None:
    return None


@pytest.mark.parametrize(("damage", "code"), [(damaged, "artifact_corrupt"), (missing, "unknown_artifact")])
def test_an_artifact_that_cannot_be_read_is_never_served(
    world: World, damage: Callable[[bytes], bytes | None], code: str
) -> None:
    world.create("a")

    async def script() -> None:
        await world.until(world.confirmed)
        first = world.publish("a", "who?", "Ada")
        await world.until(lambda: world.serving("a", 2))
        await world.stop_server()
        second = world.publish("a", "where?", "Rome")
        assert second.artifact is not None
        path = world.artifacts.path(second.artifact)
        whole = path.read_bytes()
        path.unlink()
        if (left := damage(whole)) is not None:
            path.write_bytes(left)
        await world.start_server()
        await world.until(lambda: world.client.get_codebook(book("a")).problems)
        view = world.client.get_codebook(book("a"))
        assert [(it.revision, it.code) for it in view.problems] == [(3, code)]
        assert not view.serving
        assert set(world.engine.ranks[0].entries[str(book("a"))]) == {first.edit_id}
        path.write_bytes(whole)
        await world.until(lambda: world.serving("a", 3))

    run(world, script)
    assert world.client.get_codebook(book("a")).problems == ()
